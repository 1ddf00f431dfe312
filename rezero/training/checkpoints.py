"""A run's folder and its checkpoints: a killed run goes on from the last whole checkpoint, and from no other."""

import json
import os
import re
import shutil
import warnings
import zipfile
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError, safe_open

from rezero.config import Config, parse_config
from rezero.files import read_json, read_jsonl, writable, write_jsonl, write_text
from rezero.policy.base import not_written, same_modes

PARTS = ("trainer_state.json", "*.safetensors", "optimizer.pt", "scheduler.pt", "rng_state*.pth")


def record_config(run_dir: Path, config: Config, resume: bool = True) -> None:
    """Write config.json to a run's folder; with `resume`, ValueError if it records another configuration."""
    path = writable(run_dir) / "config.json"
    left = [name for name in ("metrics.jsonl", "best", "checkpoints") if (run_dir / name).exists()]
    if resume and left and not path.is_file():
        raise ValueError(f"{path} is missing beside {left[0]}; choose another run folder, or resume=False")
    if resume and path.is_file():
        values, recorded = read_json(path), None
        with suppress(ValueError):  # fields that the record does not have are at their defaults
            recorded = parse_config(values, str(path))
        if recorded != config:
            raise ValueError(f"{path} records another configuration; choose another run folder, or resume=False")
    write_text(path, json.dumps(config.to_dict(), indent=1))


def read_metrics(run_dir: Path) -> list[dict]:
    path = run_dir / "metrics.jsonl"
    return list(read_jsonl(path, appended=True)) if path.is_file() else []


def prepare_run(run_dir: Path, config: Config, resume: bool) -> str | None:
    """Make a run's folder what it was at its last whole checkpoint; returns that, or None to start afresh."""
    record_config(run_dir, config, resume)
    checkpoint = last_checkpoint(run_dir / "checkpoints") if resume else None
    step, rows = _step(checkpoint) if checkpoint else -1, read_metrics(run_dir)
    logged = max((row["step"] for row in rows if row["kind"] == "train"), default=0)
    if checkpoint and logged + int(config.grpo.get("logging_steps", 1)) <= step:
        has = f"{run_dir / 'metrics.jsonl'}: its last step is {logged}, and {checkpoint} is of step {step}"
        raise ValueError(f"{has}; put the whole file back, or start again with resume=False")
    best, kept = run_dir / "best", run_dir / "checkpoints" / f"best-{step}"
    if not checkpoint:
        for folder in (best, kept.parent, run_dir / "tensorboard"):
            shutil.rmtree(folder, ignore_errors=True)
        (run_dir / "difficulty.jsonl").unlink(missing_ok=True)
    elif kept.is_dir():
        _copy(kept, best)  # the steps after the checkpoint are taken again
    elif best.is_dir():
        _copy(best, kept)  # the process was killed before `keep_best`; it has not changed since
    _drop_stale(kept.parent)
    shutil.rmtree(run_dir / "best.new", ignore_errors=True)
    write_jsonl(run_dir / "metrics.jsonl", [row for row in rows if row["step"] <= step])
    return checkpoint and str(checkpoint)


def last_checkpoint(folder: Path) -> Path | None:
    """The latest whole checkpoint of `folder`. Half-written ones after it are deleted."""
    for checkpoint in sorted(_numbered(folder, "checkpoint"), key=_step, reverse=True):
        if is_whole(checkpoint):
            return checkpoint
        warnings.warn(f"{checkpoint}: half written, deleted", stacklevel=2)
        shutil.rmtree(checkpoint)
    return None


def is_whole(checkpoint: Path) -> bool:
    """Whether all is there that the run needs to go on exactly (`PARTS`), the trainer's state last, and uncut."""
    try:
        whole = [any(checkpoint.glob(part)) for part in PARTS]
        for path in checkpoint.iterdir():
            if path.suffix == ".safetensors":
                safe_open(path, "pt")
            zipped = path.suffix in (".pt", ".pth", ".bin")
            whole.append(zipfile.is_zipfile(path) if zipped else path.stat().st_size > 0)
        return all(whole) and read_json(checkpoint / "trainer_state.json").get("global_step") == _step(checkpoint)
    except (OSError, ValueError, SafetensorError):
        return False


def check_written(run_dir: Path, error: Exception, needed: int) -> None:
    """Raise an OSError that names the checkpoint, of about `needed` bytes, that the failed run left half written."""
    half = [path for path in _numbered(run_dir / "checkpoints", "checkpoint") if not is_whole(path)]
    if half:
        raise not_written(half[0], error, needed) from error


def keep_best(run_dir: Path, step: int) -> None:
    """Copy best/ beside the checkpoint of a step, and see to it that both survive a crash of the machine."""
    best, checkpoints = run_dir / "best", run_dir / "checkpoints"
    if best.is_dir():
        _copy(best, checkpoints / f"best-{step}")
    same_modes(checkpoints / f"checkpoint-{step}")
    _drop_stale(checkpoints)
    os.sync()


def _drop_stale(checkpoints: Path) -> None:
    """Delete each best-N whose checkpoint is gone."""
    for kept in _numbered(checkpoints, "best"):
        if not kept.with_name(f"checkpoint-{_step(kept)}").is_dir():
            shutil.rmtree(kept)


def move_over(new: Path, target: Path) -> None:
    """Put the folder `new` in the place of `target`, so that half a folder never has its name."""
    shutil.rmtree(target, ignore_errors=True)
    new.rename(target)


def _copy(source: Path, target: Path) -> None:
    new = target.with_name(f"new.{target.name}")
    shutil.rmtree(new, ignore_errors=True)
    try:
        move_over(shutil.copytree(source, new), target)
    except OSError as error:
        raise not_written(new, error, sum(path.stat().st_size for path in source.iterdir())) from error


def _numbered(folder: Path, name: str) -> list[Path]:
    return [path for path in folder.glob(f"{name}-*") if re.fullmatch(rf"{name}-\d+", path.name)]


def _step(path: Path) -> int:
    return int(path.name.rsplit("-", 1)[1])
