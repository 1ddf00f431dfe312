"""Keeping a run as the reference: its files are copied, the README shows its summary, a bad call changes nothing."""

import shutil
from pathlib import Path

import pytest
from tools import keep_reference as reference
from tools.keep_reference import END, START, keep_as_reference

OURS, NAMED = START.format(""), START.format("/long")
RECORD = '{"notebooks": {"02": {"status": "done", "seconds": 9.5}}}'
KEPT = ["02_train_grpo.ipynb", "metrics.jsonl", "run.json", "summary.txt"]


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """A folder with a run "one" and an older reference, beside a README."""
    monkeypatch.setattr(reference, "ROOT", tmp_path)
    (tmp_path / "README.md").write_text(f"before\n{OURS}\nold\n{END}\nafter\n{END}\n")
    for folder, names in (("one", [*KEPT, "traces.jsonl", "lock"]), ("reference", ["00_old.ipynb", "summary.txt"])):
        (tmp_path / "runs" / folder).mkdir(parents=True)
        for name in names:
            (tmp_path / "runs" / folder / name).write_text(RECORD if name == "run.json" else f"{name} of {folder}\n")
    return tmp_path / "runs"


def files(folder):
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_a_run_takes_the_place_of_the_reference_or_is_kept_beside_it(runs, tmp_path):
    kept = {name: f"{name} of one\n" for name in KEPT} | {"run.json": RECORD}
    keep_as_reference("one", "long", str(runs))
    assert files(runs / "reference" / "long") == kept
    assert (runs / "reference" / "00_old.ipynb").exists() and "\nold\n" in (tmp_path / "README.md").read_text()
    for _ in range(2):  # the second time changes nothing
        keep_as_reference("one", runs=str(runs))
    assert files(runs / "reference") == kept | {f"long/{name}": text for name, text in kept.items()}
    aside = [files(folder) for folder in sorted(runs.glob(".before-reference-*"))]
    assert {"00_old.ipynb": "00_old.ipynb of reference\n", "summary.txt": "summary.txt of reference\n"} in aside
    times = "seconds per notebook: 02 10; together 10\n\n"
    readme = f"before\n{OURS}\n```\n{times}summary.txt of one\n```\n{END}\nafter\n{END}\n"
    assert (tmp_path / "README.md").read_text() == readme
    (tmp_path / "README.md").write_text(f"{END}\n{OURS}")
    with pytest.raises(ValueError, match="must frame the summary"):
        keep_as_reference("one", runs=str(runs))


def test_how_long_notebooks_took_is_written_where_it_is_said(runs, tmp_path):
    head, row = (
        '"| time | {} on 2 CPU cores |",\n"reads in 5 min"\n',
        "| [02](02.ipynb) | Why? | {} | |\n| [03](x) | 7 s |\n",
    )
    (tmp_path / "notebooks").mkdir()
    for said, name, then in (
        ("3 min", "", "10 s"),
        ("3 min", "sweep", "3 min"),
        ("3 s in `make run`, 4 min in `make sweep`", "", "10 s in `make run`, 4 min in `make sweep`"),
        ("3 s in `make run`, 4 min in `make sweep`", "sweep", "3 s in `make run`, 10 s in `make sweep`"),
        ("seconds", "", "seconds"),
    ):
        (tmp_path / "notebooks" / "02.ipynb").write_text(head.format(said))
        (tmp_path / "notebooks" / "README.md").write_text(row.format(said))
        keep_as_reference("one", name, str(runs))
        assert (tmp_path / "notebooks" / "02.ipynb").read_text() == head.format(then)
        assert (tmp_path / "notebooks" / "README.md").read_text() == row.format(then)


def test_a_named_run_shows_its_machine_and_summary_where_the_readme_of_runs_has_a_place(runs):
    """Both versions of a package that was installed over another are named; a run without a place changes nothing."""
    (runs / "one" / "environment.txt").write_text("time: now\ngpu: a card\ngit: abc\n\nunsloth==1\nunsloth==2\n")
    (runs / "README.md").write_text(f"above\n{NAMED}\n{END}\nbelow")
    for _ in range(2):
        keep_as_reference("one", "long", str(runs))
        facts = "time: now\ngit: abc\ngpu: a card\nunsloth: 1 and 2\n02: done, 9.5 s\n\n"
        shown = f"above\n{NAMED}\n```\n{facts}summary.txt of one\n```\n{END}\nbelow"
        assert (runs / "README.md").read_text() == shown
    keep_as_reference("one", "other", str(runs))
    assert (runs / "README.md").read_text() == shown
    (runs / "one" / "summary.txt").rename(runs / "one" / "map.txt")
    (runs / "one" / "map.txt").write_text(f"Against one:\n{'long ' * 30}\n\nend")
    keep_as_reference("one", "long", str(runs))
    wrapped = f"Against one:\n{'long ' * 23}long\n  {'long ' * 5}long\n\nend\n"
    assert (runs / "README.md").read_text() == shown.replace("summary.txt of one\n", wrapped)


@pytest.mark.parametrize(("arguments", "message"), [
    (("two",), r"two/summary.txt does not exist; .*notebook 02"),
    (("two", "long"), r"two/run.json does not exist"),
    (("reference",), "is the reference itself"),
    (("linked",), "is the reference itself"),
    (("../reference",), "run '../reference': want up to 100 letters"),
    (("one", "../one"), "--name '../one': want up to 100 letters"),
    (("one", "../../notebooks"), "--name '../../notebooks': want up to 100 letters"),
    (("one", "away"), "reference/away is a link to"),
    (("one", "summary.txt"), "summary.txt"),  # a file
    (("failed",), "failed/run.json: 02 is 'failed'; want a run that is done"),
    (("one", "long"), "environment.txt"),  # which the README is to show
    (("one",), "no space left on device"),  # while it is copied
    (("one", "other"), "cannot move"),  # while it is moved
])  # fmt: skip
def test_what_is_wrong_destroys_nothing(runs, tmp_path, arguments, message, monkeypatch):
    def copy(source, target, real=shutil.copy):
        if source.name == "summary.txt" and arguments == ("one",):
            raise OSError("no space left on device")
        return real(source, target)

    def rename(path, target, real=Path.rename):
        if path.name == "summary.txt" and target.parent.name == "other":
            raise OSError("cannot move")
        return real(path, target)

    (runs / "linked").symlink_to(runs / "reference")
    (runs / "reference" / "away").symlink_to(tmp_path)
    (runs / "README.md").write_text(f"above\n{NAMED}\n{END}\nbelow")
    (runs / "failed").mkdir()
    (runs / "failed" / "run.json").write_text(RECORD.replace("done", "failed"))
    (runs / "failed" / "summary.txt").touch()
    (runs / "reference" / "other").mkdir()
    (runs / "reference" / "other" / "metrics.jsonl").write_text("older")
    monkeypatch.setattr(shutil, "copy", copy)
    monkeypatch.setattr(Path, "rename", rename)
    before = files(tmp_path)
    with pytest.raises((ValueError, OSError), match=message):
        keep_as_reference(*arguments, runs=str(runs))
    assert files(tmp_path) == before
