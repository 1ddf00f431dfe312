"""Training that one can watch: lines that say how far it is, and in a notebook one figure that is updated in place."""

import os
import warnings
from io import BytesIO
from pathlib import Path
from textwrap import wrap
from time import perf_counter

import pandas as pd
import torch
from IPython import get_ipython
from IPython.display import Image, display
from matplotlib.figure import Figure
from transformers import TrainerCallback

from rezero.analysis import plots
from rezero.config import Config
from rezero.evaluation.evaluate import LABELS
from rezero.evaluation.traces import in_lines
from rezero.files import resolve, shown
from rezero.policy.base import Policy
from rezero.questions import spread
from rezero.rollout import rollout
from rezero.search_env import first_search_misses
from rezero.task import Task
from rezero.text import duration
from rezero.training.checkpoints import read_metrics, record_config

SHOWN = {"reward": "reward", "accuracy": "accuracy", "searches": "searches", "retried": LABELS["retried"]}
UNREADABLE = """the starting policy answers none of {} dev questions ({:.0%} of its episodes have a malformed turn), so
that GRPO finds nothing to reward. The laptop's policy reads only texts like the shipped ones: for another corpus take a
language model with a warm start, such as -p profile=smollm (after `make smollm`), or raise warm_start.steps"""


class Watch(TrainerCallback):
    """Says after each step what it was like and how long the rest takes; with each evaluation on dev shows an episode.

    The episode is sampled, with the same seed each time, for one question: the first of those of dev whose own words
    miss, with the fewest gold passages. What the training draws does not change. In a notebook all this is one figure;
    where a notebook is executed headlessly the lines are printed, too. Warnings say when nothing can be or was learned.
    """

    def __init__(self, config: Config, run_dir: str | Path, task: Task, policy: Policy):
        self.run_dir, self.task, self.policy, self.seed = resolve(run_dir), task, policy, config.seed
        dev, curriculum = spread(task.questions["dev"], config.eval_questions), config.curriculum
        misses = first_search_misses(dev, task.engine, task.sampling.k)
        missed = [question for question, miss in zip(dev, misses, strict=True) if miss]
        self.question = min(missed or dev, key=lambda question: len(question.gold_chunk_ids))
        self.harder = curriculum.solved_weight < 1 and (curriculum.samples > 0 or curriculum.by == "first_search")
        self.handle, self.lines, self.drawn = None, [], 0.0
        self.live = hasattr(get_ipython(), "kernel")
        self.prints = not self.live or "REZERO_RUN_DIR" in os.environ  # set in the kernels of `python -m rezero run`

    def on_train_begin(self, args, state, control, **_):
        self.begun, self.first = perf_counter(), state.global_step
        self.seen = len(read_metrics(self.run_dir)) if self.first else 0  # of a run that goes on
        if state.is_world_process_zero and self.harder:
            print("accuracy of a step is that of sampled episodes; hard training questions are drawn more often than")
            print("those that are always solved, so that it lies below accuracy on dev", flush=True)
        self._show(state)

    def on_log(self, args, state, control, logs=None, **_):
        if "reward" in (logs or {}):
            self._show(state)

    def on_train_end(self, args, state, control, **_):
        self._show(state)
        evals = [row for row in read_metrics(self.run_dir) if row["kind"] == "eval"]
        if state.is_world_process_zero and max(evals, key=lambda row: row["accuracy"])["step"] == 0:
            said = "the policy of step 0 is kept: no later one was better on dev, so that nothing was learned"
            warnings.warn(f"{said}; look at reward and P(retried | missed), then at reward and learning rate", stacklevel=2)

    def _show(self, state) -> None:
        rows = read_metrics(self.run_dir) if state.is_world_process_zero else []
        new, self.seen = rows[getattr(self, "seen", 0) :], len(rows)
        done = state.global_step - self.first
        left = (perf_counter() - self.begun) * (state.max_steps - state.global_step) / done if done else 0
        ahead = f"about {duration(left)} left" if left else ""
        for row in new:
            if row["kind"] == "train":
                values = [f"{label} {row.get(name, float('nan')):.2f}" for name, label in SHOWN.items()]
                took = sum(value for name, value in row.items() if name.startswith("seconds/"))
                self._print(f"step {row['step']}/{state.max_steps}", *values, f"{took:.1f} s", ahead)
        for row in new:  # they were written before the step's own
            if row["kind"] == "eval":
                self._evaluated(row)
        if self.live and (any(row["kind"] == "eval" for row in new) or perf_counter() > self.drawn + 5):
            self._draw(rows, f"step {state.global_step} of {state.max_steps}  {ahead}")

    def _evaluated(self, row: dict) -> None:
        shares = [f"{LABELS[name]} {in_words(row, name)}" for name in ("accuracy", "retried")]
        self._print(f"dev at step {row['step']}", *shares)
        generator = torch.Generator(self.policy.model.device).manual_seed(self.seed)
        with torch.random.fork_rng():  # backends other than our own sampling draw without the generator
            torch.manual_seed(self.seed)
            asked = [self.question], self.task.sampling
            (episode,) = rollout(self.policy, self.task.engine, *asked, generator=generator)
        self.lines = f"one dev question, sampled at step {row['step']}: {in_lines(episode)}".splitlines()
        self._print(*self.lines, sep="\n")
        if row["step"] == 0 and row["accuracy"] == 0:
            n = len(self.task.questions["dev"])
            warnings.warn(UNREADABLE.replace("\n", " ").format(n, row["malformed"]), stacklevel=2)

    def _print(self, *words: str, sep: str = "  ") -> None:
        if self.prints:
            print(*filter(None, words), sep=sep, flush=True)

    def _draw(self, rows: list[dict], title: str) -> None:
        image, self.drawn = Image(png(draw(pd.DataFrame(rows), self.lines, title))), perf_counter()
        if self.handle:
            self.handle.update(image)
        else:
            self.handle = display(image, display_id=True)


def in_words(row: dict, name: str) -> str:
    """A metric of a row of metrics.jsonl with its interval."""
    value, low, high = (row.get(f"{name}{end}", float("nan")) for end in ("", "_low", "_high"))
    return "no such episode" if value != value else f"{value:.3f} [{low:.3f}, {high:.3f}]"


def draw(metrics: pd.DataFrame, lines: list[str], title: str) -> Figure:
    """Reward by step, accuracy and P(retried | missed) on dev, and beside them the lines of an episode."""
    figure = Figure(figsize=(10, 3.2), layout="constrained")  # none of pyplot's, which would show it once more
    left, middle, right = figure.subplots(1, 3, width_ratios=(3, 3, 4))
    plots.draw_smoothed(left, metrics[metrics.kind == "train"], "reward", "black")
    plots.by_step(left, "Reward, sampled in training", "mean over episodes")
    plots.draw_dev(middle, metrics[metrics.kind == "eval"])
    middle.set_title("Dev set")
    middle.legend(loc="lower right", fontsize="x-small")
    text = "\n".join(part for line in lines for part in wrap(line, 62, subsequent_indent="      ", tabsize=4) or [""])
    right.text(0, 1, text, size=6.5, family="monospace", va="top", parse_math=False)
    right.set_axis_off()
    figure.suptitle(title, x=0.01, ha="left", size="medium")
    return figure


def png(figure: Figure) -> bytes:
    file = BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # of a script that the font lacks
        figure.savefig(file, format="png", dpi=100)
    return file.getvalue()


def fresh_folder(run_dir: str | Path, config: Config) -> str:
    """`run_dir`, or the first of run_dir-2, run_dir-3 and so on that holds no run of another configuration."""
    run_dir = folder = resolve(run_dir)
    number = 1
    while True:
        try:
            record_config(folder, config)
            break
        except ValueError:
            number += 1
            folder = run_dir.with_name(f"{run_dir.name}-{number}")
    if number > 1:
        print(f"{shown(run_dir)} holds a run with other parameters; this one is {shown(folder)}")
    return shown(folder)


def what_next(run_dir: Path) -> str:
    """What can be opened, asked and continued after a run, by what is in its folder."""
    run = shown(run_dir)
    steps = {
        "episodes.html": f"look:     open {run}/episodes.html in a browser",
        "best": f'ask:      python -m rezero ask "..." --policy {run}',
        "tensorboard": f"curves:   tensorboard --logdir {run}",
        "02_train_grpo.ipynb": f"go on:    python -m rezero run 04 05 --run-id {run_dir.name} --resume",
    }
    return "\n".join(line for name, line in steps.items() if (run_dir / name).exists())
