"""What happens beside the optimiser's steps: metrics, a line a step, evaluation on dev, the best policy kept.

With several processes all run every callback, since some of it is shared work; only the main one writes and prints.
"""

import shutil
from pathlib import Path
from time import perf_counter

from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from transformers import TrainerCallback

from rezero.config import Config
from rezero.evaluation.evaluate import Report, evaluate, report
from rezero.files import append_jsonl, read_jsonl, write_text
from rezero.judge import exact_match
from rezero.policy.base import Policy, save_policy
from rezero.protocol import Episode
from rezero.search.base import Engine
from rezero.task import Task
from rezero.training.sentinel import check_limits, collapse, most_of

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

EPISODE_METRICS = ("accuracy", "searches", "evidence", "malformed_turns", "malformed_ends", "retry_after_miss")


class MetricsLog(TrainerCallback):
    """Writes each step's metrics to metrics.jsonl and prints a line."""

    def __init__(self, run_dir: Path, config: Config, seconds: dict[str, float], engine: Engine):
        self.path, self.config, self.seconds, self.engine = run_dir / "metrics.jsonl", config, seconds, engine
        self.begun = self.ended = perf_counter()
        self.spent, self.counted = dict(seconds), dict(engine.counts)

    def on_step_begin(self, args, state, control, **_):
        self.begun = perf_counter()

    def on_step_end(self, args, state, control, **_):
        self.ended = perf_counter()  # before the evaluation on dev, which is no part of the step

    def on_log(self, args, state, control, logs=None, **_):
        if "reward" not in (logs or {}):
            return
        row = {"kind": "train", "step": state.global_step}
        row |= {ours: logs[theirs] for theirs, ours in TRL_METRICS.items() if theirs in logs}
        row |= {k.removesuffix("/mean"): v for k, v in logs.items() if k.startswith("rewards/") and k.endswith("/mean")}
        row |= {
            k.replace("/std", "_std"): v for k, v in logs.items() if k.startswith("rewards/") and k.endswith("/std")
        }
        row |= {k: logs[k] for k in EPISODE_METRICS if k in logs}
        row |= self._seconds() | self._queries()
        if not state.is_world_process_zero:
            return
        append_jsonl(self.path, row)
        total = sum(v for k, v in row.items() if k.startswith("seconds/"))
        print(
            f"step {state.global_step}/{self.config.steps}  reward {row['reward']:.2f}  "
            f"accuracy {row['accuracy']:.2f}  searches {row['searches']:.2f}  "
            f"retry after miss {row.get('retry_after_miss', float('nan')):.2f}  {total:.1f} s",
            flush=True,
        )

    def _seconds(self) -> dict[str, float]:
        """This process's seconds of the step by phase; what is not generation, search or rewards is optimisation."""
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


class DevEvaluation(TrainerCallback):
    """Evaluates on dev at the start and every `eval_every` steps, and keeps the best policy in best/."""

    def __init__(self, policy: Policy, task: Task, config: Config, run_dir: Path):
        self.policy, self.task, self.config, self.run_dir = policy, task, config, run_dir

    def on_train_begin(self, args, state, control, **_):
        if state.global_step == 0:
            self._evaluate(0)

    def on_step_end(self, args, state, control, **_):
        if state.global_step % self.config.eval_every == 0 or state.global_step == self.config.steps:
            self._evaluate(state.global_step)

    def _evaluate(self, step: int) -> None:
        questions = self.task.questions["dev"][: self.config.eval_questions or None]
        result = evaluate(self.policy, self.task.engine, share(questions), self.config, f"step {step}")
        if PartialState().num_processes > 1:
            result = report(gather_object(list(result.episodes))[: len(questions)], result.name)
        best = PartialState().is_main_process and self._record(step, result)
        if from_main(best):
            self._keep(step)

    def _record(self, step: int, result: Report) -> bool:
        """Write and print what came out, and say whether it is the best so far."""
        row = {"kind": "eval", "split": "dev", "step": step}
        for name, estimate in result.metrics.items():
            row |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
        best = max((r["accuracy"] for r in read_metrics(self.run_dir) if r["kind"] == "eval"), default=-1.0)
        append_jsonl(self.run_dir / "metrics.jsonl", row)
        print(f"dev at step {step}: accuracy {result['accuracy']}, retry after miss {result['retry_after_miss']}")
        return result["accuracy"].value > best

    def _keep(self, step: int) -> None:
        """Replace best/ in one move, so that a killed run never leaves half a policy there."""
        new, best = self.run_dir / "best.new", self.run_dir / "best"
        if PartialState().is_main_process:
            shutil.rmtree(new, ignore_errors=True)
        self.save(str(new))
        if PartialState().is_main_process:
            write_text(new / "step.txt", f"{step}\n")
            (new / "training_args.bin").unlink(missing_ok=True)  # a pickle, which a trainer that saves adds
            shutil.rmtree(best, ignore_errors=True)
            new.rename(best)
        PartialState().wait_for_everyone()

    def save(self, folder: str) -> None:
        if PartialState().is_main_process:
            save_policy(self.policy, folder)


class Sentinel(TrainerCallback):
    """Stops a training that collapses (see `sentinel.collapse`), says why, and leaves best/ as what was learned."""

    def __init__(self, run_dir: Path, config: Config):
        self.run_dir, self.most, self.limits = run_dir, most_of(vars(config)), check_limits(config.collapse_limits)
        self.settings = config.collapse_drop, config.collapse_patience, config.collapse_window

    def on_log(self, args, state, control, logs=None, **_):
        if "reward" not in (logs or {}):
            return
        why = None
        if state.is_world_process_zero:
            why = collapse(read_metrics(self.run_dir), *self.settings, self.most, self.limits)
        if why:
            append_jsonl(self.run_dir / "metrics.jsonl", {"kind": "collapse", "step": state.global_step, "why": why})
            print(f"stopped at step {state.global_step}, the best policy on dev is kept: {why}", flush=True)
        control.should_training_stop |= from_main(why is not None)


class AdapterCheck(TrainerCallback):
    """Stops, soon after the warm-up, a training whose adapter changes nothing of what generates."""

    def __init__(self, policy: Policy, prompt: list[dict], config: Config):
        self.policy, self.ids, self.step = policy, policy.prompt_ids(prompt), max(5, config.warmup_steps)

    def on_step_end(self, args, state, control, **_):
        if state.global_step != self.step:
            return
        self.policy.model.eval()
        if not self.policy.start([self.ids], temperature=0.0).follows_adapter():
            raise RuntimeError(
                f"after {self.step} steps the policy generates as if it had no adapter: nothing is learned"
            )
        self.policy.model.train()


def episode_values(episodes: list[Episode]) -> dict[str, list[float]]:
    """What a step's sampled episodes were like: values whose mean, over all processes, is the step's metric."""
    missed = [e for e in episodes if e.searches and e.evidence_search != 1]
    return {
        "accuracy": [float(exact_match(e.answer, e.question.answers)) for e in episodes],
        "searches": [float(len(e.searches)) for e in episodes],
        "evidence": [float(e.evidence_search is not None) for e in episodes],
        "malformed_turns": [float(turn.action == "malformed") for e in episodes for turn in e.turns],
        "malformed_ends": [float(e.outcome == "malformed") for e in episodes],
        "retry_after_miss": [float(len(e.searches) > 1) for e in missed],
    }


def share(items: list) -> list:
    """This process's part of `items`, in order; where there are too few, the last item, so that nobody idles."""
    state = PartialState()
    size = -(-len(items) // state.num_processes)
    start = state.process_index * size
    return items[start : start + size] or items[-1:]


def from_main(value):
    """The main process's `value`, in every process; waits for all of them."""
    return broadcast_object_list([value])[0]


def read_metrics(run_dir: Path) -> list[dict]:
    path = run_dir / "metrics.jsonl"
    return list(read_jsonl(path, appended=True)) if path.is_file() else []
