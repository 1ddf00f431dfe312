"""`make apollo`, without a GPU: its parameters, a run from beginning to end at tiny size, and the closing comparison.

The original's corpus is not part of this project: with APOLLO13=FOLDER the run uses it, else a corpus in its format.
"""

import csv
import json
import os
import shlex
import shutil
import subprocess

import pytest
import yaml
from conftest import answer, search
from tools import published
from tools.published import compare_with_published

from rezero.__main__ import main
from rezero.config import load_config
from rezero.corpus import load_chunks
from rezero.data.leaks import leakage
from rezero.evaluation.traces import read_traces, write_traces
from rezero.files import ROOT
from rezero.protocol import Episode
from rezero.questions import Question, load_questions

FILE = "notebooks/apollo13.yaml"
GIVEN = yaml.safe_load((ROOT / FILE).read_text())["02_train_grpo"]
TINY = dict(backend="transformers", lora_rank=4, lora_layers=0, turn_tokens=16, episode_tokens=1400, k=1)
TINY |= dict(questions_per_step=2, num_generations=2, micro_batch=2, eval_questions=3, test_questions=0, max_context=0)
TINY |= dict(warm_start=dict(steps=1, batch=2, episodes=4), curriculum=dict(samples=0))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """The folder of the original's corpus, or one with invented passages in its format, two questions on each."""
    if "APOLLO13" in os.environ:
        return os.environ["APOLLO13"]
    folder = tmp_path_factory.mktemp("original")
    with (folder / "chunks.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["chunk_id", "content", "metadata"])
        for i in range(1, 31):
            valve = f"The pressure in tank number {i} of the ship fell to {i + 100} psia before valve V{i} was closed."
            rows.writerow([i, f"{valve} It was closed by the crew after {i + 200} minutes of hard work.", "{}"])
    with (folder / "questions.jsonl").open("w") as file:
        for i in range(1, 31):
            for asked, said in (
                (f"To what did tank {i} fall?", f"{i + 100} psia"),
                (f"When was V{i} closed?", f"after {i + 200}"),
            ):
                file.write(json.dumps({"id": str(i), "question": asked, "answer": said}) + "\n")
    return str(folder)


def recipe() -> list[list[str]]:
    """The commands of `make apollo`, as make prints them."""
    asked = ["make", "-n", "--no-print-directory", "apollo", "CORPUS=FOLDER"]
    lines = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return [shlex.split(line) for line in lines[-3:]]  # those before install what is missing


@pytest.mark.parametrize("profile", ["gpu_small", "smollm"])
def test_the_parameters_fit_the_profile(profile):
    config = load_config(profile, **GIVEN["overrides"] | {"steps": GIVEN["steps"]})
    assert config.warm_start.episodes == config.warm_start.steps * 16 and config.curriculum.samples == 2
    assert config.corpus == recipe()[0][recipe()[0].index("--out") + 1]  # what `cloze` writes is what training reads


@pytest.mark.slow
def test_the_recipe_runs_on_a_cpu(corpus, tmp_path, capsys):
    """The commands of the Makefile, with other folders and tiny settings: cloze, notebooks 02 and 04, comparison."""
    cloze, run, compared = recipe()
    out, runs = str(tmp_path / "made"), str(tmp_path / "runs")
    cloze = [{"FOLDER": corpus, ".cache/apollo13": out}.get(word, word) for word in cloze]
    assert main(cloze[cloze.index("rezero") + 1 :]) == 0
    questions = load_questions(f"{out}/questions.jsonl", load_chunks(out))
    counts = [sum(q.split == split for q in questions) for split in ("dev", "test")]
    assert counts == ([40, 104] if "APOLLO13" in os.environ else [8, 20])
    assert {row["gold_chunks"] for row in leakage(questions)} == {0}
    assert {q.split for q in questions if q.id.startswith("cloze")} == {"train"}
    policy = shutil.copytree(ROOT / "data" / "policy", tmp_path / "policy")  # taken for a model that knows no protocol
    overrides = {**GIVEN["overrides"], **TINY, "policy": str(policy), "corpus": out, "test_questions": 6}
    run = [word for word in run[run.index("rezero") + 1 :] if word != "profile=gpu_small"]
    run += ["profile=smollm", "steps=1", f"overrides={json.dumps(overrides)}", "--runs-dir", runs]
    assert main(run) == 0, capsys.readouterr().err
    assert "before training, rules in prompt" in capsys.readouterr().out
    said = compare_with_published(compared[-1], runs)
    assert said.startswith("exact match on 6 test questions ") and "published: 0.4688 [0.309, 0.636] of 32" in said


@pytest.mark.parametrize(("right", "verdict"), [(1, "not above"), (3, "above")])
def test_the_comparison_counts_the_trained_policy_alone(tmp_path, right, verdict):
    asked = [Question(f"q{i}", "Who?", ("yes",), ("c",)) for i in range(4)]
    done = [
        Episode(one, (search("c"), answer("yes" if i < right else "no")), "answered") for i, one in enumerate(asked)
    ]
    rows = [({"policy": name}, episode) for name, episode in zip(["after training"] * 4, done, strict=True)]
    rows += [({"policy": "before training"}, episode) for episode in done[:1] * 4]
    write_traces(tmp_path / "mine" / "traces.jsonl", rows)
    assert len(read_traces(tmp_path / "mine" / "traces.jsonl")) == 8
    said = compare_with_published("mine", str(tmp_path))
    assert f"test questions {right / 4:.3f} [" in said and said.endswith(f"The share is {verdict} the published one.")
    assert published.RIGHT / published.ASKED == 0.46875
