"""Keep one executed run as papermill_runs/reference/, and show its summary in the README.

python tests/tools/keep_reference.py RUN_ID [--name NAME]

With a name it is kept as reference/NAME. If papermill_runs/README.md has the lines between which NAME's summary stands
(`START` with NAME), it is written there, below the facts of `describe`.
"""

import argparse
import json
import re
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from rezero.files import ROOT, resolve, write_text
from rezero.runner.run import safe_name

KEPT = ["*.ipynb", "params.yaml", "environment.txt", "run.json", "metrics.jsonl", "warm.jsonl", "test_ledger.jsonl"]
KEPT += ["summary.txt", "ablations.txt", "*.csv", "*.png"]
START, END = "<!-- summary of papermill_runs/reference{}, written by tests/tools/keep_reference.py -->", "<!-- end -->"
FACTS = ("time", "git", "python", "gpu", "torch", "transformers", "trl", "unsloth", "unsloth_zoo", "vllm")


def keep_as_reference(run_id: str, name: str = "", runs: str = "papermill_runs") -> None:
    """Copy a run's notebooks, records and tables to <runs>/reference, and its summary.txt into the README.

    With a `name` they go to <runs>/reference/<name>, and the summary to <runs>/README.md if it has a place there. What
    was kept before is deleted only when everything new is copied.

    Raises FileNotFoundError if the run does not exist or wrote no summary, ValueError for an unsafe name or a README
    without the two lines between which the summary stands.
    """
    run, target = resolve(runs) / safe_name(run_id, "run"), resolve(runs) / "reference"
    if run == target:
        raise ValueError(f"{run} is the reference itself; want the id of a run")
    if name:
        target /= safe_name(name, "--name")
    summary = run / ("run.json" if name else "summary.txt")
    if not summary.is_file():
        raise FileNotFoundError(f"{summary} does not exist; a run writes run.json, and notebook 02 summary.txt")
    readme = resolve(runs) / "README.md" if name else ROOT / "README.md"
    text = readme.read_text("utf-8") if readme.is_file() else ""
    before, start, rest = text.partition(START.format(name and f"/{name}"))
    _, end, after = rest.partition(END)
    if not name and not (start and end):
        raise ValueError(f"{readme}: the lines {START.format('')!r} and {END!r} must frame the summary")
    target.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=target, prefix=".new-") as new:
        for path in kept_in(run):
            shutil.copy(path, new)
        for path in kept_in(target):
            path.unlink()
        for path in kept_in(Path(new)):
            path.replace(target / path.name)
    if start and end:
        facts, shown = describe(target) if name else "", (target / "summary.txt").read_text("utf-8")
        write_text(readme, f"{before}{start}\n```\n{facts}{shown}```\n{end}{after}")


def describe(folder: Path) -> str:
    """What a run's own files say of it: machine and versions (all, where several are installed), and time."""
    said, facts = (folder / "environment.txt").read_text("utf-8"), []
    for name in FACTS:
        found = re.findall(rf"^{name}(?:: |==)(.+)$", said, re.MULTILINE)
        facts += [f"{name}: {' and '.join(found)}"] if found else []
    for name, entry in json.loads((folder / "run.json").read_text("utf-8"))["notebooks"].items():
        facts.append(f"{name}: {entry['status']}, {entry['seconds']} s")
    return "\n".join([*facts, "", ""])


def kept_in(folder: Path) -> list[Path]:
    return [path for pattern in KEPT for path in folder.glob(pattern)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=keep_as_reference.__doc__)
    parser.add_argument("run_id")
    parser.add_argument("--name", default="", help="keep it in reference/NAME instead, and leave the README")
    arguments = parser.parse_args()
    try:
        keep_as_reference(arguments.run_id, arguments.name)
    except (OSError, ValueError) as error:
        parser.error(str(error))
