"""Keep one executed run as papermill_runs/reference/, and show its summary in the README.

python tests/tools/keep_reference.py RUN_ID [--name NAME]

With a name it is kept as reference/NAME. If papermill_runs/README.md has the lines between which NAME's summary stands
(`START` with NAME), it is written there, or what the map of a sweep says, below the facts of `describe`. How long
notebooks took is written into their own heads and the tables of README.md and notebooks/README.md.
"""

import argparse
import re
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from textwrap import fill

from rezero.files import ROOT, read_json, resolve, write_text
from rezero.runner.run import safe_name
from rezero.text import duration

KEPT = ["*.ipynb", "params.yaml", "environment.txt", "run.json", "metrics.jsonl", "warm.jsonl", "test_ledger.jsonl"]
KEPT += ["summary.txt", "map.txt", "*.csv", "*.png"]
START, END = "<!-- summary of papermill_runs/reference{}, written by tests/tools/keep_reference.py -->", "<!-- end -->"
FACTS = ("time", "git", "python", "gpu", "torch", "transformers", "trl", "unsloth", "unsloth_zoo", "vllm")


def keep_as_reference(run_id: str, name: str = "", runs: str = "papermill_runs") -> None:
    """Copy a run's notebooks, records and tables to <runs>/reference, and its summary.txt into the README.

    With a `name` they go to <runs>/reference/<name>, and the summary to <runs>/README.md if it has a place there. What
    was kept before is moved aside, into a folder beside the runs, and back again if anything goes wrong.

    Raises FileNotFoundError if the run does not exist or wrote no summary, ValueError for an unsafe name, a run that is
    part of the reference or has unfinished notebooks, or a README without the lines between which the summary stands.
    """
    runs = resolve(runs).resolve()
    reference, run = runs / "reference", (runs / safe_name(run_id, "run")).resolve()
    target = reference / safe_name(name, "--name") if name else reference
    if run.is_relative_to(reference):
        raise ValueError(f"{run} is the reference itself; want the id of a run")
    if target.resolve() != target:
        raise ValueError(f"{target} is a link to {target.resolve()}; want a folder")
    summary = run / ("run.json" if name else "summary.txt")
    if not summary.is_file():
        raise FileNotFoundError(f"{summary} does not exist; a run writes run.json, and notebook 02 summary.txt")
    for notebook, entry in read_json(run / "run.json")["notebooks"].items():
        if entry["status"] != "done":
            raise ValueError(f"{run / 'run.json'}: {notebook} is {entry['status']!r}; want a run that is done")
    readme = runs / "README.md" if name else ROOT / "README.md"
    text = readme.read_text("utf-8") if readme.is_file() else ""
    before, start, rest = text.partition(START.format(name and f"/{name}"))
    _, end, after = rest.partition(END)
    if not name and not (start and end):
        raise ValueError(f"{readme}: the lines {START.format('')!r} and {END!r} must frame the summary")
    if start and end:
        facts, shown = describe(run) if name else times(run), said(run)
        text = f"{before}{start}\n```\n{facts}{shown}```\n{end}{after}"
    with TemporaryDirectory(dir=runs, prefix=".new-") as new:
        for path in kept_in(run):
            shutil.copy(path, new)
        exchange(Path(new), target, Path(mkdtemp(dir=runs, prefix=f".before-{target.name}-")))
    if start and end:
        write_text(readme, text)
    if name in ("", "sweep"):
        for notebook, entry in read_json(run / "run.json")["notebooks"].items():
            write_time(notebook, duration(entry["seconds"]), "sweep" if name else "run")


def write_time(notebook: str, time: str, command: str) -> None:
    """Put `time` where a notebook's head and tables say how long it takes, as in "2 min" or "2 min in `make run`".

    A time that names another command stays; "sweep" changes only times that name it.
    """
    own, amount = ROOT / "notebooks" / f"{notebook}.ipynb", r"\d+ (?:s|min)\b"
    places = {
        own: "| time |",
        ROOT / "README.md": f"| [{notebook}]",
        ROOT / "notebooks" / "README.md": f"| [{notebook}]",
    }
    for path, mark in places.items():
        lines = path.read_text("utf-8").splitlines(keepends=True) if path.is_file() else []
        for number, line in enumerate(lines):
            said = rf"{amount}(?= in `make {command}`)" if "in `make" in line or command == "sweep" else amount
            lines[number] = re.sub(said, time, line, count=1) if mark in line else line
        if lines:
            write_text(path, "".join(lines))


def exchange(new: Path, target: Path, aside: Path) -> None:
    """Move what was kept in `target` to `aside` and the files of `new` to `target`, or, after an error, nothing."""
    made, moved = not target.is_dir(), []
    try:
        target.mkdir(parents=True, exist_ok=True)
        for source, folder in ((target, aside), (new, target)):
            for path in kept_in(source):
                moved.append((path, path.rename(folder / path.name)))
    except BaseException:
        for path, now in reversed(moved):
            now.rename(path)
        if made and target.is_dir():
            target.rmdir()
        aside.rmdir()
        raise
    if any(aside.iterdir()):
        print(f"what was kept before is in {aside}")
    else:
        aside.rmdir()


def describe(folder: Path) -> str:
    """What a run's own files say of it: machine and versions (all, where several are installed), and time."""
    said, facts = (folder / "environment.txt").read_text("utf-8"), []
    for name in FACTS:
        found = dict.fromkeys(re.findall(rf"^{name}(?:: |==)(.+?)(?:, load .*)?$", said, re.MULTILINE))  # of all starts
        facts += [f"{name}: {' and '.join(found)}"] if found else []
    for name, entry in read_json(folder / "run.json")["notebooks"].items():
        facts.append(f"{name}: {entry['status']}, {entry['seconds']} s")
    return "\n".join([*facts, "", ""])


def said(run: Path) -> str:
    """What notebook 02 or else 03 found, in lines that a README can show."""
    file = run / ("summary.txt" if (run / "summary.txt").is_file() else "map.txt")
    words = file.read_text("utf-8")
    return "".join(fill(line, 120, subsequent_indent="  ") + "\n" for line in words.splitlines())


def kept_in(folder: Path) -> list[Path]:
    return [path for pattern in KEPT for path in folder.glob(pattern)]


def times(run: Path) -> str:
    """How long each notebook took, and on what."""
    seconds = {name: entry["seconds"] for name, entry in read_json(run / "run.json")["notebooks"].items()}
    environment = run / "environment.txt"
    text = environment.read_text("utf-8") if environment.is_file() else ""
    machine = re.search(r"^python: (.*)$", text, re.MULTILINE)
    each = ", ".join(f"{name[:2]} {value:.0f}" for name, value in seconds.items())
    where = f"Python {machine[1]}; " if machine else ""
    return f"{where}seconds per notebook: {each}; together {sum(seconds.values()):.0f}\n\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=keep_as_reference.__doc__)
    parser.add_argument("run_id")
    parser.add_argument("--name", default="", help="keep it in reference/NAME instead, and leave the README")
    arguments = parser.parse_args()
    try:
        keep_as_reference(arguments.run_id, arguments.name)
    except (OSError, ValueError) as error:
        parser.error(str(error))
