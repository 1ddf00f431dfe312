"""Watching a training: one line per step and evaluation in their order, one figure in a notebook, warnings."""

import re
from dataclasses import replace
from types import SimpleNamespace

import matplotlib.pyplot as plt
import pytest
from conftest import metrics_of
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rezero import rollout as playing
from rezero.analysis import watch
from rezero.analysis.watch import Watch, fresh_folder
from rezero.evaluation.evaluate import evaluate
from rezero.training.train import train
from rezero.warmstart.supervised import starting_policy


def watched(config, folder, task, **options):
    policy = starting_policy(config, task, folder)
    return train(config, folder, task, policy, callbacks=[Watch(config, folder, task, policy)], **options)


def test_lines_come_in_the_order_of_steps_and_one_question_changes_no_draw(config, task, tmp_path, capsys):
    task = replace(task, sampling=replace(task.sampling, k=1))
    with pytest.warns(UserWarning) as said:  # the random policy is never right
        watched(config, tmp_path / "run", task)
    first, last = (str(one.message) for one in said if one.filename.endswith(("watch.py", "callback.py")))
    assert re.match(r"the starting policy answers no dev question, and 100% of .* profile=smollm", first)
    assert last.startswith("kept is step 0")
    lines = capsys.readouterr().out.splitlines()
    heads = [" ".join(line.split()[:4]).rstrip(":") for line in lines if re.match(r"(step|dev at|one dev)", line)]
    heads = [re.sub(r"^(step ./4).*", r"\1", head) for head in heads]
    assert heads == [
        "dev at step 0", "one dev question, sampled", "step 1/4", "step 2/4", "dev at step 2",
        "one dev question, sampled", "step 3/4", "step 4/4", "dev at step 4", "one dev question, sampled",
    ]  # fmt: skip
    assert "are always solved are seldom drawn" in lines[0]
    first, *_, last = (line for line in lines if line.startswith("step "))
    wanted = r"step 1/4  reward \S+  accuracy 0.00  searches \S+  P\(retried \| missed\) \S+  \S+ s  about \S+ s left"
    assert re.fullmatch(wanted, first) and last.endswith(" s") and "left" not in last
    asked = task.questions["dev"][1].text  # with one passage per search the second misses, the first does not
    shown = [line for line in lines if line.startswith("one dev question")]
    assert shown == [f"one dev question, sampled at step {step}: {asked}" for step in (0, 2, 4)]
    train(config, tmp_path / "silent", task)
    assert "step" not in capsys.readouterr().out
    assert metrics_of(tmp_path / "run") == metrics_of(tmp_path / "silent")


@pytest.mark.parametrize("headless", [False, True])
def test_in_a_notebook_one_figure_is_updated_in_place(config, task, tmp_path, capsys, monkeypatch, headless):
    images = []
    handle = SimpleNamespace(update=images.append)
    monkeypatch.setattr(watch, "get_ipython", lambda: SimpleNamespace(kernel=None))
    monkeypatch.setattr(watch, "display", lambda image, display_id: images.append(image) or handle)
    drawn, real = [], watch.draw

    def draw(metrics, lines, title, steps):
        drawn.append((len(metrics), title, steps))
        return real(metrics, lines, title, steps)

    monkeypatch.setattr(watch, "draw", draw)
    monkeypatch.setenv("REZERO_RUN_DIR", "run") if headless else monkeypatch.delenv("REZERO_RUN_DIR", raising=False)
    watched(config, tmp_path / "run", task)
    assert len(images) >= 3 and all(image.data.startswith(b"\x89PNG") for image in images)
    assert drawn[0][1:] == ("step 0 of 4", 4) and drawn[-1] == (7, "ended at step 4 of 4", 4)
    assert ("step 4/4" in capsys.readouterr().out) is headless
    assert not plt.get_fignums()  # pyplot would show it once more


def test_tensorboard_has_training_and_dev_in_one_folder(config, task, tmp_path):
    for _ in range(2):  # the second time from the start: what was there is gone
        train(config, tmp_path / "run", task, resume=False)
    (path,) = (tmp_path / "run" / "tensorboard").glob("events.out.tfevents*")
    events = EventAccumulator(str(path.parent))
    events.Reload()
    steps = {tag: [event.step for event in events.Scalars(tag)] for tag in ("train/reward", "eval/accuracy")}
    assert steps == {"train/reward": [1, 2, 3, 4], "eval/accuracy": [0, 2, 4]}


def test_another_configuration_gets_a_folder_of_its_own(config, tmp_path, capsys):
    first, other = tmp_path / "by_hand", replace(config, seed=1)
    assert [fresh_folder(first, one) for one in (config, other, config, replace(config, seed=2), other)] \
        == [f"{first}{end}" for end in ("", "-2", "", "-3", "-2")]  # fmt: skip
    assert f"run folder: {first}-2\n" in capsys.readouterr().out


def test_long_work_says_how_far_it_is(policy, task, capsys, monkeypatch):
    clock = iter(range(0, 10**6, 4))  # four seconds pass whenever somebody looks
    monkeypatch.setattr(playing, "perf_counter", lambda: float(next(clock)))
    evaluate(policy, task, [question for question in task.questions["dev"] for _ in range(200)], "step 4")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" episodes")[0] for line in lines] == [f"evaluating step 4: {n} of 400" for n in (128, 256, 384)]
    assert all(re.search(r", about \d+ (s|min) left$", line) for line in lines)
