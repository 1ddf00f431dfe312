"""A run's folder and its checkpoints: a killed run goes on from the last whole checkpoint, and from no other."""

import json
import os
import shutil
import warnings
import zipfile
from pathlib import Path

from accelerate import PartialState
from safetensors import SafetensorError, safe_open
from transformers import TrainerCallback

from rezero.config import Config, parse_config
from rezero.files import read_jsonl, write_jsonl, write_text


def record_config(run_dir: Path, config: Config, resume: bool = True) -> None:
    """Write config.json to a run's folder; with `resume`, ValueError if it records another configuration."""
    path = run_dir / "config.json"
    if resume and path.is_file():
        try:  # fields that the record does not have are at their defaults
            recorded = parse_config(json.loads(path.read_text("utf-8")), str(path))
        except ValueError:
            recorded = None
        if recorded != config:
            raise ValueError(f"{path} records another configuration; choose another run folder, or resume=False")
    write_text(path, json.dumps(config.to_dict(), indent=1))


def read_metrics(run_dir: Path) -> list[dict]:
    path = run_dir / "metrics.jsonl"
    return list(read_jsonl(path, appended=True)) if path.is_file() else []


def prepare_run(run_dir: Path, resume: bool) -> str | None:
    """Make a run's folder what it was at its last whole checkpoint; returns that, or None to start afresh."""
    checkpoint = last_checkpoint(run_dir / "checkpoints") if resume else None
    shutil.rmtree(run_dir / "best.new", ignore_errors=True)
    if checkpoint:
        step, best = _step(checkpoint), run_dir / "best"
        kept = checkpoint.with_name(f"best-{step}")
        if kept.is_dir():
            _copy(kept, best)  # the steps after the checkpoint are taken again
        elif best.is_dir():
            _copy(best, kept)  # the process was killed before `KeepBest` could copy it; it has not changed since
    else:
        step = -1
        shutil.rmtree(run_dir / "checkpoints", ignore_errors=True)
        shutil.rmtree(run_dir / "best", ignore_errors=True)
        (run_dir / "difficulty.jsonl").unlink(missing_ok=True)
    write_jsonl(run_dir / "metrics.jsonl", [row for row in read_metrics(run_dir) if row["step"] <= step])
    return checkpoint and str(checkpoint)


def last_checkpoint(folder: Path) -> Path | None:
    """The latest whole checkpoint of `folder`. Half-written ones after it are deleted."""
    for checkpoint in sorted(folder.glob("checkpoint-*"), key=_step, reverse=True):
        if is_whole(checkpoint):
            return checkpoint
        warnings.warn(f"{checkpoint}: half written, deleted", stacklevel=2)
        shutil.rmtree(checkpoint)
    return None


def is_whole(checkpoint: Path) -> bool:
    """Whether everything is there: the trainer writes its state last, and no file is cut off."""
    try:
        state = json.loads((checkpoint / "trainer_state.json").read_text("utf-8"))
        return state["global_step"] == _step(checkpoint) and all(map(_is_complete, checkpoint.iterdir()))
    except (OSError, ValueError):
        return False


def unfinished(run_dir: Path) -> Path | None:
    """What a run that failed left half written: a checkpoint, or the best policy; None if nothing."""
    half = [path for path in (run_dir / "checkpoints").glob("checkpoint-*") if not is_whole(path)]
    half += [path for path in [run_dir / "best.new"] if path.exists()]
    return half[0] if half else None


class KeepBest(TrainerCallback):
    """Makes each checkpoint survive a crash of the machine, and keeps the policy that was best by then beside it."""

    def __init__(self, run_dir: Path):
        self.best = run_dir / "best"

    def on_save(self, args, state, control, **_):
        PartialState().wait_for_everyone()
        if not state.is_world_process_zero:
            return
        checkpoints = Path(args.output_dir)
        if self.best.is_dir():
            _copy(self.best, checkpoints / f"best-{state.global_step}")
        for kept in checkpoints.glob("best-*"):
            if not kept.with_name(f"checkpoint-{_step(kept)}").is_dir():
                shutil.rmtree(kept)
        for path in checkpoints.glob(f"*-{state.global_step}/**/*"):
            if path.is_file():
                with path.open("rb") as file:
                    os.fsync(file.fileno())


def _step(path: Path) -> int:
    return int(path.name.rsplit("-", 1)[1])


def _is_complete(path: Path) -> bool:
    """Whether a file has its end, as far as its format tells."""
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, "pt"):
                return True
        except SafetensorError:
            return False
    return zipfile.is_zipfile(path) if path.suffix in (".pt", ".pth", ".bin") else path.stat().st_size > 0


def _copy(source: Path, target: Path) -> None:
    """Copy a folder in place of an old one, so that half a copy never has its name."""
    new = target.with_name(f"new.{target.name}")
    shutil.rmtree(new, ignore_errors=True)
    shutil.copytree(source, new)
    shutil.rmtree(target, ignore_errors=True)
    new.rename(target)
