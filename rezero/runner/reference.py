"""Curate one executed run as papermill_runs/reference/, and show its summary in the README."""

import shutil

from rezero.files import ROOT, resolve, write_text

KEPT = """*.ipynb params.yaml environment.txt run.json metrics.jsonl test_ledger.jsonl summary.txt ablations.txt
*.csv""".split()

START, END = "<!-- summary of papermill_runs/reference, written by `python -m rezero reference` -->", "<!-- end -->"


def keep_as_reference(run_id: str, name: str = "", runs: str = "papermill_runs") -> None:
    """Copy a run's notebooks, records and tables to <runs>/reference, and its summary.txt into the README.

    With a `name` they go to <runs>/reference/<name>, beside the others, and the README stays as it is.

    Raises:
        FileNotFoundError: the run does not exist or, without a name, wrote no summary.
        ValueError: the README has lost the two lines between which the summary stands.
    """
    run, reference, readme = resolve(runs) / run_id, resolve(runs) / "reference" / name, ROOT / "README.md"
    summary = run / ("run.json" if name else "summary.txt")
    if not summary.is_file():
        raise FileNotFoundError(f"{summary} does not exist; a run writes run.json, and notebook 02 summary.txt")
    text = readme.read_text()
    if START not in text or END not in text:
        raise ValueError(f"{readme}: the lines {START!r} and {END!r} must frame the summary")
    reference.mkdir(parents=True, exist_ok=True)
    for pattern in KEPT:
        for path in reference.glob(pattern):
            path.unlink()
        for path in sorted(run.glob(pattern)):
            shutil.copy(path, reference / path.name)
    if not name:
        before, after = text.split(START)[0], text.split(END)[1]
        write_text(readme, f"{before}{START}\n```\n{summary.read_text()}```\n{END}{after}")
