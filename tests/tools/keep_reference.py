"""Keep one executed run as papermill_runs/reference/, and show its summary in the README.

python tests/tools/keep_reference.py RUN_ID [--name NAME]
"""

import argparse
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from rezero.files import ROOT, resolve, write_text
from rezero.runner.run import safe_name

KEPT = ["*.ipynb", "params.yaml", "environment.txt", "run.json", "metrics.jsonl", "test_ledger.jsonl"]
KEPT += ["summary.txt", "ablations.txt", "*.csv", "*.png"]
START, END = "<!-- summary of papermill_runs/reference, written by tests/tools/keep_reference.py -->", "<!-- end -->"


def keep_as_reference(run_id: str, name: str = "", runs: str = "papermill_runs") -> None:
    """Copy a run's notebooks, records and tables to <runs>/reference, and its summary.txt into the README.

    With a `name` they go to <runs>/reference/<name>, and the README stays as it is. What was kept there before is
    deleted only when everything new is copied.

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
    readme = ROOT / "README.md"
    before, start, rest = readme.read_text("utf-8").partition(START)
    _, end, after = rest.partition(END)
    if not name and not (start and end):
        raise ValueError(f"{readme}: the lines {START!r} and {END!r} must frame the summary")
    target.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=target, prefix=".new-") as new:
        for path in kept_in(run):
            shutil.copy(path, new)
        for path in kept_in(target):
            path.unlink()
        for path in kept_in(Path(new)):
            path.replace(target / path.name)
    if not name:
        write_text(readme, f"{before}{START}\n```\n{summary.read_text('utf-8')}```\n{END}{after}")


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
