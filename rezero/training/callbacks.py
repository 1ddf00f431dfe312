"""What happens beside the optimiser's steps. All processes run it, since some of it is shared; the main one writes."""

from collections.abc import Callable
from pathlib import Path
from time import perf_counter

from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from transformers import TrainerCallback

from rezero.config import Collapse
from rezero.evaluation.evaluate import Report, evaluate, summarize
from rezero.files import append_jsonl, write_text
from rezero.judge import exact_match
from rezero.policy.base import Policy, save_policy
from rezero.protocol import Episode, Turn
from rezero.questions import Question
from rezero.search.base import Engine
from rezero.search_env import respond
from rezero.task import Task
from rezero.training.checkpoints import keep_best, move_over, read_metrics
from rezero.training.sentinel import STOPS, collapse, hopeless, stalled

LOGGED = {name: name for name in ("reward", "reward_std", "entropy", "kl", "grad_norm", "learning_rate")}
LOGGED |= {"frac_reward_zero_std": "zero_variance_groups", "completions/mean_length": "policy_tokens"}  # TRL's -> ours
OURS = ("rewards", "tokens", "forked_groups")  # what else is logged, up to a "/"; see `rezero.extras.fork`


def episode_values(episodes: list[Episode]) -> dict[str, list[float]]:
    """What sampled episodes were like: metric -> values whose mean, over all processes, is the step's metric."""
    answered = [turn for e in episodes for turn in e.searches if turn.information is not None]  # not the last turn's
    return {
        "accuracy": [float(exact_match(e.answer, e.question.answers)) for e in episodes],
        "searches": [float(len(e.searches)) for e in episodes],
        "evidence": [float(e.evidence_search is not None) for e in episodes],
        "malformed_turns": [float(turn.action == "malformed") for e in episodes for turn in e.turns],
        "malformed_ends": [float(e.outcome == "malformed") for e in episodes],
        "cut_ends": [float(e.outcome == "token_limit") for e in episodes],
        "failed_searches": [float(turn.error is not None) for turn in answered],
        "retried": [float(e.retried) for e in episodes if e.missed],
    }


class MetricsLog(TrainerCallback):
    """Writes each step's metrics to metrics.jsonl.

    Among them are `seconds` by phase, and of this process's `tokens` of the step, those sampled per second of
    generation, and those of the episodes, prompts included, per second of optimisation.
    """

    def __init__(self, run_dir: Path, seconds: dict[str, float], tokens: dict[str, int]):
        self.path, self.seconds, self.tokens = run_dir / "metrics.jsonl", seconds, tokens

    def on_step_begin(self, args, state, control, **_):
        self.seconds.update(dict.fromkeys(self.seconds, 0.0))
        self.begun = perf_counter()

    def on_step_end(self, args, state, control, **_):  # before the evaluation on dev, which is no part of the step
        self.seconds["optimisation"] = perf_counter() - self.begun - sum(self.seconds.values())

    def on_log(self, args, state, control, logs=None, **_):
        if "reward" not in (logs or {}) or not state.is_world_process_zero:
            return
        row, ours = {"kind": "train", "step": state.global_step}, {*LOGGED.values(), *episode_values([]), *OURS}
        for name, value in logs.items():
            if value is not None and (name in LOGGED or name.split("/")[0] in ours):  # None: nothing could be scored
                row[LOGGED.get(name, name.removesuffix("/mean").replace("/std", "_std"))] = value
        row |= {f"seconds/{name}": round(value, 3) for name, value in self.seconds.items()}
        for name, phase in (("sampled", "generation"), ("trained", "optimisation")):
            row[f"tokens_per_second/{name}"] = round(self.tokens[name] / self.seconds[phase], 1)
        append_jsonl(self.path, row)


class DevEvaluation(TrainerCallback):
    """Evaluates on dev at the start, every `every` steps and at the end, and keeps the best policy in best/.

    metrics.jsonl gets a row with intervals; `log`, which is transformers' own, the values for TensorBoard and the like.
    """

    def __init__(self, policy: Policy, task: Task, questions: list[Question], run_dir: Path, every: int, log: Callable):
        self.policy, self.task, self.questions, self.run_dir = policy, task, questions, run_dir
        self.every, self.log = every, log

    def on_train_begin(self, args, state, control, **_):
        if state.global_step == 0:
            self._evaluate(0, reuse=True)  # other runs start from the same policy

    def on_step_end(self, args, state, control, **_):
        last = state.global_step == state.max_steps  # arms ask for it again
        if last or state.global_step % self.every == 0:
            due = control.should_log
            self._evaluate(state.global_step, reuse=last)
            control.should_log = due  # `log` clears it, but the step's own metrics are not logged yet

    def on_save(self, args, state, control, **_):
        PartialState().wait_for_everyone()
        if state.is_world_process_zero:
            keep_best(self.run_dir, state.global_step)

    def _evaluate(self, step: int, reuse: bool) -> None:
        state = PartialState()
        with state.split_between_processes(self.questions) as share:  # with too few, some play the last one again
            result = evaluate(self.policy, self.task, share or self.questions[-1:], f"step {step}", reuse=reuse)
        if state.num_processes > 1:
            result = summarize(gather_object(list(result.episodes))[: len(self.questions)], result.name)
        if state.is_main_process and self._record(step, result):
            new = save_policy(self.policy, self.run_dir / "best.new")
            write_text(new / "step.txt", f"{step}\n")
            move_over(new, self.run_dir / "best")
        state.wait_for_everyone()

    def _record(self, step: int, result: Report) -> bool:  # whether it is the best so far
        row = {"kind": "eval", "split": "dev", "step": step}
        for name, estimate in result.metrics.items():
            row |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
        before = [row["accuracy"] for row in read_metrics(self.run_dir) if row["kind"] == "eval"]
        append_jsonl(self.run_dir / "metrics.jsonl", row)
        self.log({f"eval_{name}": estimate.value for name, estimate in result.metrics.items()})
        return result["accuracy"].value > max(before, default=-1.0)


class Sentinel(TrainerCallback):
    """Stops a training that collapses or adds nothing (see `sentinel`) and says why; best/ has what was learned."""

    def __init__(self, run_dir: Path, settings: Collapse, most: dict[str, float], patience: int, engine: Engine):
        self.run_dir, self.settings, self.most, self.patience, self.engine = run_dir, settings, most, patience, engine

    def on_log(self, args, state, control, logs=None, **_):
        if "reward" not in (logs or {}):
            return
        rows = read_metrics(self.run_dir) if state.is_world_process_zero else []
        whys = dict(zip(STOPS, (collapse(rows, self.settings, self.most), stalled(rows, self.patience)), strict=True))
        kind = next(filter(whys.get, STOPS), None)
        ended = bool(kind) or state.global_step + args.logging_steps > state.max_steps
        why, stop = broadcast_object_list([hopeless(rows, ended), kind is not None])  # waits for the main process
        if why:  # no checkpoint is saved, so that the run can begin anew once the cause is mended
            (now,) = respond([Turn("", "", "search", "test")], self.engine, 1)
            raise ValueError(f"stopped at step {state.global_step}, nothing can be learned: {why} {now.error or ''}")
        if kind:
            row = {"kind": kind, "step": state.global_step, "why": whys[kind]}
            append_jsonl(self.run_dir / "metrics.jsonl", row)
            print(f"stopped at step {row['step']}, the best policy on dev is kept: {row['why']}", flush=True)
        control.should_training_stop |= stop
        control.should_save |= stop  # so that a run that is resumed stops here, too
