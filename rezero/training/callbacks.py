"""What happens beside the optimiser's steps. All processes run it, since some of it is shared; the main one writes."""

import shutil
from pathlib import Path
from time import perf_counter

from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from transformers import TrainerCallback

from rezero.config import Collapse
from rezero.evaluation.evaluate import LABELS, Report, evaluate, summarize
from rezero.files import append_jsonl, write_text
from rezero.judge import exact_match
from rezero.policy.base import Policy, save_policy
from rezero.protocol import Episode
from rezero.questions import Question
from rezero.search.base import Engine
from rezero.task import Task
from rezero.training.checkpoints import read_metrics
from rezero.training.sentinel import collapse

TRL_METRICS = {  # TRL's name -> ours
    "reward": "reward",
    "reward_std": "reward_std",
    "frac_reward_zero_std": "zero_variance_groups",
    "entropy": "entropy",
    "kl": "kl",
    "grad_norm": "grad_norm",
    "learning_rate": "learning_rate",
    "completions/mean_length": "policy_tokens",
}


def episode_values(episodes: list[Episode]) -> dict[str, list[float]]:
    """What sampled episodes were like: metric -> values whose mean, over all processes, is the step's metric."""
    return {
        "accuracy": [float(exact_match(e.answer, e.question.answers)) for e in episodes],
        "searches": [float(len(e.searches)) for e in episodes],
        "evidence": [float(e.evidence_search is not None) for e in episodes],
        "malformed_turns": [float(turn.action == "malformed") for e in episodes for turn in e.turns],
        "malformed_ends": [float(e.outcome == "malformed") for e in episodes],
        "retried": [float(e.retried) for e in episodes if e.missed],
    }


class MetricsLog(TrainerCallback):
    """Writes each step's metrics to metrics.jsonl and prints one line."""

    def __init__(self, run_dir: Path, seconds: dict[str, float], engine: Engine):
        self.path, self.seconds, self.engine = run_dir / "metrics.jsonl", seconds, engine
        self.begun = self.ended = perf_counter()
        self.spent, self.counted = dict(seconds), dict(engine.counts)

    def on_step_begin(self, args, state, control, **_):
        self.begun = perf_counter()

    def on_step_end(self, args, state, control, **_):
        self.ended = perf_counter()  # before the evaluation on dev, which is no part of the step

    def on_log(self, args, state, control, logs=None, **_):
        if "reward" not in (logs or {}):
            return
        row = {"kind": "train", "step": state.global_step} | _renamed(logs) | self._seconds() | self._queries()
        if not state.is_world_process_zero:
            return
        append_jsonl(self.path, row)
        shown = " ".join(f" {name} {row[name]:.2f}" for name in ("reward", "accuracy", "searches"))
        retried = f"{LABELS['retried']} {row.get('retried', float('nan')):.2f}"
        total = sum(value for name, value in row.items() if name.startswith("seconds/"))
        print(f"step {state.global_step}/{state.max_steps} {shown}  {retried}  {total:.1f} s", flush=True)

    def _seconds(self) -> dict[str, float]:
        """This process's seconds of the step by phase. What is not generation, search or rewards is optimisation."""
        spent = {name: now - self.spent[name] for name, now in self.seconds.items()}
        self.spent = dict(self.seconds)
        spent["optimisation"] = max(0.0, self.ended - self.begun - sum(spent.values()))
        return {f"seconds/{name}": round(value, 3) for name, value in spent.items()}

    def _queries(self) -> dict[str, int]:
        """How many of the queries since the last row the engine answered from its memory, and how many it searched."""
        since = {name: now - self.counted[name] for name, now in self.engine.counts.items()}
        self.counted = dict(self.engine.counts)
        everywhere = gather_object([since])
        return {f"queries/{name}": sum(one[name] for one in everywhere) for name in since}


def _renamed(logs: dict[str, float]) -> dict[str, float]:
    """TRL's log of a step in our names: its own metrics, each reward's mean and deviation, those of the episodes."""
    row = {ours: logs[theirs] for theirs, ours in TRL_METRICS.items() if theirs in logs}
    for name, value in logs.items():
        if name.startswith("rewards/") and name.endswith("/mean"):
            row[name.removesuffix("/mean")] = value
        if name.startswith("rewards/") and name.endswith("/std"):
            row[name.removesuffix("/std") + "_std"] = value
    return row | {name: logs[name] for name in episode_values([]) if name in logs}


class DevEvaluation(TrainerCallback):
    """Evaluates on dev at the start, every `every` steps and at the end, and keeps the best policy in best/."""

    def __init__(self, policy: Policy, task: Task, questions: list[Question], run_dir: Path, every: int):
        self.policy, self.task, self.questions, self.run_dir, self.every = policy, task, questions, run_dir, every

    def on_train_begin(self, args, state, control, **_):
        if state.global_step == 0:
            self._evaluate(0)

    def on_step_end(self, args, state, control, **_):
        if state.global_step % self.every == 0 or state.global_step == state.max_steps:
            self._evaluate(state.global_step)

    def _evaluate(self, step: int) -> None:
        result = evaluate(self.policy, self.task, share(self.questions), f"step {step}")
        if PartialState().num_processes > 1:
            result = summarize(gather_object(list(result.episodes))[: len(self.questions)], result.name)
        best = PartialState().is_main_process and self._record(step, result)
        if best:
            self._keep(step)
        PartialState().wait_for_everyone()

    def _record(self, step: int, result: Report) -> bool:
        """Write and print the result; returns whether it is the best so far."""
        row = {"kind": "eval", "split": "dev", "step": step}
        for name, estimate in result.metrics.items():
            row |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
        before = [row["accuracy"] for row in read_metrics(self.run_dir) if row["kind"] == "eval"]
        append_jsonl(self.run_dir / "metrics.jsonl", row)
        print(f"dev at step {step}: accuracy {result['accuracy']}, {LABELS['retried']} {result['retried']}", flush=True)
        return result["accuracy"].value > max(before, default=-1.0)

    def _keep(self, step: int) -> None:
        """Replace best/ in one move, so that a killed run never leaves half a policy there."""
        new, best = self.run_dir / "best.new", self.run_dir / "best"
        shutil.rmtree(new, ignore_errors=True)
        save_policy(self.policy, new)
        write_text(new / "step.txt", f"{step}\n")
        shutil.rmtree(best, ignore_errors=True)
        new.rename(best)


class Sentinel(TrainerCallback):
    """Stops a training that collapses (see `sentinel.collapse`) and says why; best/ has what was learned."""

    def __init__(self, run_dir: Path, settings: Collapse, most: dict[str, float]):
        self.run_dir, self.settings, self.most = run_dir, settings, most

    def on_log(self, args, state, control, logs=None, **_):
        if "reward" not in (logs or {}):
            return
        why = None
        if state.is_world_process_zero:
            why = collapse(read_metrics(self.run_dir), self.settings, self.most)
        if why:
            append_jsonl(self.run_dir / "metrics.jsonl", {"kind": "collapse", "step": state.global_step, "why": why})
            print(f"stopped at step {state.global_step}, the best policy on dev is kept: {why}", flush=True)
        control.should_training_stop |= from_main(why is not None)


def share(items: list) -> list:
    """This process's part of `items`, in order. If there are too few, the last item, so that no process idles."""
    state = PartialState()
    size = -(-len(items) // state.num_processes)
    start = state.process_index * size
    return items[start : start + size] or items[-1:]


def from_main(value):
    """The main process's `value`, in every process; waits for all of them."""
    return broadcast_object_list([value])[0]
