"""Training that one can watch: lines that say how far it is, and in a notebook one figure that is updated in place."""

import os
import warnings
from contextlib import suppress
from io import BytesIO
from itertools import count
from math import nan
from pathlib import Path
from textwrap import fill, shorten
from time import perf_counter

import pandas as pd
import torch
from IPython import get_ipython
from IPython.display import Image, display
from matplotlib.figure import Figure
from transformers import TrainerCallback

from rezero.analysis import plots
from rezero.config import Config
from rezero.evaluation.evaluate import LABELS, Estimate
from rezero.files import resolve, shown
from rezero.judge import exact_match
from rezero.policy.base import Policy
from rezero.protocol import Episode
from rezero.questions import spread
from rezero.rollout import rollout
from rezero.search_env import first_search_misses
from rezero.task import Task
from rezero.text import duration, printable
from rezero.training.checkpoints import read_metrics, record_config

SHOWN = {"reward": "reward", "accuracy": "accuracy", "searches": "searches", "retried": LABELS["retried"]}
HARDER = "accuracy per step is below accuracy on dev: questions that are always solved are seldom drawn for training"
UNREADABLE = (
    "the starting policy answers no dev question, and {:.0%} of its episodes have a malformed turn: GRPO finds nothing "
    "to reward. The laptop's policy reads only texts like the shipped ones. For another corpus take a language model, "
    "such as -p profile=smollm (after `make smollm`); one that does not know the protocol needs a warm start"
)
UNLEARNED = "kept is step 0, the starting policy: no later one was better on dev, nothing was learned. See its curves"


class Watch(TrainerCallback):
    """Says after each step what it was like and how long the rest takes; after each evaluation on dev shows an episode.

    It is sampled, always with the same seed, for one question: the first of dev whose own words miss, with the fewest
    gold passages. What the training draws does not change. In a notebook all this is one figure; where a notebook is
    executed headlessly, lines are printed, too. It warns when nothing can be or was learned.
    """

    def __init__(self, config: Config, run_dir: str | Path, task: Task, policy: Policy):
        self.run_dir, self.task, self.policy, self.seed = resolve(run_dir), task, policy, config.seed
        dev, curriculum = spread(task.questions["dev"], config.eval_questions), config.curriculum
        missed = first_search_misses(dev, task.engine, task.sampling.k)
        missed = [question for question, miss in zip(dev, missed, strict=True) if miss]
        self.question = min(missed or dev, key=lambda question: len(question.gold_chunk_ids))
        self.live = hasattr(get_ipython(), "kernel")
        self.prints = not self.live or "REZERO_RUN_DIR" in os.environ  # set in the kernels of `python -m rezero run`
        self.handle, self.lines, self.drawn = None, [], 0.0
        if curriculum.solved_weight < 1 and (curriculum.samples > 0 or curriculum.by == "first_search"):
            print(HARDER, flush=True)

    def on_train_begin(self, args, state, control, **_):
        self.begun, self.first = perf_counter(), state.global_step
        self.seen = len(read_metrics(self.run_dir)) if self.first else 0  # of a run that goes on
        self._show(state)

    def on_log(self, args, state, control, logs=None, **_):
        if "reward" in (logs or {}):
            self._show(state)

    def on_train_end(self, args, state, control, **_):
        self._show(state)
        rows = read_metrics(self.run_dir)
        evals = [row for row in rows if row["kind"] == "eval"]
        if self.live:
            self._draw(rows, f"ended at step {state.global_step} of {state.max_steps}", state.global_step)
        if state.is_world_process_zero and max(evals, key=lambda row: row["accuracy"])["step"] == 0:
            warnings.warn(UNLEARNED, stacklevel=2)

    def _show(self, state) -> None:
        """Print, and draw, the rows of metrics.jsonl that are new: first the step's, then the evaluation after it."""
        rows = read_metrics(self.run_dir) if state.is_world_process_zero else []
        new, self.seen = rows[self.seen :], len(rows)
        steps, evals = ([row for row in new if row["kind"] == kind] for kind in ("train", "eval"))
        done, left = state.global_step - self.first, state.max_steps - state.global_step
        ahead = f"about {duration((perf_counter() - self.begun) / done * left)} left" if done and left else ""
        for row in steps:
            values = [f"{label} {row.get(name, nan):.2f}" for name, label in SHOWN.items()]
            took = sum(value for name, value in row.items() if name.startswith("seconds/"))
            self._print("  ".join([f"step {row['step']}/{state.max_steps}", *values, f"{took:.1f} s", ahead]).rstrip())
        for row in evals:
            self._evaluated(row)
        if self.live and (evals or perf_counter() > self.drawn + 5):
            title = f"step {state.global_step} of {state.max_steps}{ahead and ', '}{ahead}"
            self._draw(rows, title, state.max_steps)

    def _evaluated(self, row: dict) -> None:
        generator = torch.Generator(self.policy.model.device).manual_seed(self.seed)
        with torch.random.fork_rng():  # backends other than our own sampling draw without the generator
            torch.manual_seed(self.seed)
            asked = [self.question], self.task.sampling
            (episode,) = rollout(self.policy, self.task.engine, *asked, generator=generator)
        self.lines = f"one dev question, sampled at step {row['step']}: {in_lines(episode)}".splitlines()
        shares = [f"{LABELS[name]} {in_words(row, name)}" for name in ("accuracy", "retried")]
        self._print(f"dev at step {row['step']}: {', '.join(shares)}", *self.lines)
        if row["step"] == row["accuracy"] == 0:
            warnings.warn(UNREADABLE.format(row["malformed"]), stacklevel=2)

    def _print(self, *lines: str) -> None:
        if self.prints:
            print(*lines, sep="\n", flush=True)

    def _draw(self, rows: list[dict], title: str, steps: int) -> None:
        image, self.drawn = Image(draw(pd.DataFrame(rows), self.lines, title, steps)), perf_counter()
        self.handle = self.handle or display(image, display_id=True)
        self.handle.update(image)


def in_words(row: dict, name: str) -> str:
    values = [row.get(name + end, nan) for end in ("", "_low", "_high")]
    return str(Estimate(*values, n=int(values[0] == values[0])))


def draw(metrics: pd.DataFrame, lines: list[str], title: str, steps: int) -> bytes:
    """A PNG: reward and, on dev, accuracy and P(retried | missed) over all `steps`; beside them an episode's lines."""
    figure = Figure(figsize=(10, 3.4), dpi=100, layout="constrained")  # none of pyplot's, which would be shown again
    left, middle, right = figure.subplots(1, 3, width_ratios=(3, 3, 4))
    plots.draw_smoothed(left, metrics[metrics.kind == "train"], "reward", "black")
    plots.by_step(left, "Reward, sampled in training", "mean over episodes")
    plots.draw_dev(middle, metrics[metrics.kind == "eval"])
    left.yaxis.set_visible("train" in set(metrics.kind))  # before the first step, its numbers would mean nothing
    for ax in (left, middle):
        ax.set_xlim(0, max(steps, 1))
    middle.legend(fontsize="x-small")
    text = "\n".join(fill(line, 54, subsequent_indent=" " * 8) for line in lines)
    right.text(0.03, 1, text, size=8, family="monospace", va="top", parse_math=False)
    right.set_axis_off()
    figure.suptitle(title, x=0.01, ha="left", size="medium")
    file = BytesIO()
    with warnings.catch_warnings(action="ignore"):  # characters that the font lacks
        figure.savefig(file, format="png")
    return file.getvalue()


def fresh_folder(run_dir: str | Path, config: Config) -> str:
    """`run_dir`, or the first of run_dir-2, run_dir-3 and so on that records no other configuration than `config`."""
    for number in count(1):
        folder = resolve(f"{run_dir}-{number}" if number > 1 else run_dir)
        with suppress(ValueError):
            record_config(folder, config)
            print(f"run folder: {shown(folder)}", flush=True)
            return shown(folder)


def in_lines(episode: Episode) -> str:
    """The question; per turn a line with thought, action and the gold seen by then; how the episode ended."""
    shares, lines = iter(episode.evidence()), [printable(episode.question.text)]
    for turn in episode.turns:
        said = printable(f"{turn.thought} | {turn.action}: {turn.argument or turn.text}")
        seen = f" -> {next(shares):.0%} of the gold passages seen" if turn.action == "search" else ""
        lines.append(f"    {shorten(said, 160, placeholder=' ...')}{seen}")
    right = exact_match(episode.answer, episode.question.answers)
    return "\n".join([*lines, f"    {episode.outcome}, {'right' if right else 'not right'}"])
