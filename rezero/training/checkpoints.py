"""Checkpoints to rely on: only a whole one is gone on from, at whatever moment the process or the machine stopped."""

import json
import os
import shutil
import warnings
import zipfile
from pathlib import Path

from accelerate import PartialState
from safetensors import SafetensorError, safe_open
from transformers import TrainerCallback


def last_checkpoint(folder: Path) -> Path | None:
    """The latest whole checkpoint of `folder`; what a killed process left half written after it is deleted."""
    for checkpoint in sorted(folder.glob("checkpoint-*"), key=_step, reverse=True):
        if whole(checkpoint):
            return checkpoint
        warnings.warn(f"{checkpoint}: half written, deleted", stacklevel=2)
        shutil.rmtree(checkpoint)
    return None


def whole(checkpoint: Path) -> bool:
    """Whether everything is there: the trainer writes its state last, and in no file the end is missing."""
    try:
        state = json.loads((checkpoint / "trainer_state.json").read_text("utf-8"))
        return state["global_step"] == _step(checkpoint) and all(map(_ends, checkpoint.iterdir()))
    except (OSError, ValueError):
        return False


def unfinished(run_dir: Path) -> Path | None:
    """What is half written in a run that failed, None if nothing is: a checkpoint, or the best policy."""
    half = [path for path in (run_dir / "checkpoints").glob("checkpoint-*") if not whole(path)]
    return next((path for path in (*half, run_dir / "best.new") if path.exists()), None)


def restore_best(checkpoint: Path, best: Path) -> None:
    """Make `best` what it was when `checkpoint` was written: the steps after it are taken again."""
    kept = checkpoint.with_name(f"best-{_step(checkpoint)}")
    if kept.is_dir():
        _copy(kept, best)
    elif best.is_dir():  # the process was killed before it could copy it; it has not changed since
        _copy(best, kept)


class Durable(TrainerCallback):
    """Makes each checkpoint outlive a crash of the machine, and keeps the policy that was best by then beside it."""

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


def _ends(path: Path) -> bool:
    """Whether a file has its end, as far as its format tells: a part of a tensor file is as good as none."""
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, "pt"):
                return True
        except SafetensorError:
            return False
    if path.suffix in (".pt", ".pth", ".bin"):
        return zipfile.is_zipfile(path)
    return path.is_dir() or path.stat().st_size > 0


def _copy(source: Path, target: Path) -> None:
    """Copy a folder, in the place of an old one, so that half a copy never bears its name."""
    new = target.with_name(f"new.{target.name}")
    shutil.rmtree(new, ignore_errors=True)
    shutil.copytree(source, new)
    shutil.rmtree(target, ignore_errors=True)
    new.rename(target)
