"""Keeping a run as the reference: its files are copied, its summary stands in the README."""

import pytest

from rezero.runner import reference
from rezero.runner.reference import END, START, keep_as_reference


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.setattr(reference, "ROOT", tmp_path)
    (tmp_path / "README.md").write_text(f"before\n{START}\nold\n{END}\nafter\n")
    run = tmp_path / "runs" / "one"
    run.mkdir(parents=True)
    for name in ("02_train_grpo.ipynb", "summary.txt", "metrics.jsonl", "traces.jsonl", "run.json", "lock"):
        (run / name).write_text(f"{name}\n")
    return tmp_path / "runs"


def test_files_and_readme(runs, tmp_path):
    for _ in range(2):  # twice gives the same
        keep_as_reference("one", runs=str(runs))
    kept = sorted(path.name for path in (runs / "reference").iterdir())
    assert kept == ["02_train_grpo.ipynb", "metrics.jsonl", "run.json", "summary.txt"]
    assert (tmp_path / "README.md").read_text() == f"before\n{START}\n```\nsummary.txt\n```\n{END}\nafter\n"


def test_a_run_without_summary_is_refused(runs):
    with pytest.raises(FileNotFoundError, match=r"two/summary.txt does not exist; .*notebook 02"):
        keep_as_reference("two", runs=str(runs))


def test_a_readme_without_the_frame_is_refused(runs, tmp_path):
    (tmp_path / "README.md").write_text("nothing")
    with pytest.raises(ValueError, match="must frame the summary"):
        keep_as_reference("one", runs=str(runs))
    assert not (runs / "reference").exists()


def test_a_named_run_is_kept_beside_the_others(runs, tmp_path):
    keep_as_reference("one", "long", str(runs))
    assert (runs / "reference" / "long" / "02_train_grpo.ipynb").is_file()
    assert "\nold\n" in (tmp_path / "README.md").read_text()
    keep_as_reference("one", runs=str(runs))
    assert (runs / "reference" / "long" / "run.json").is_file()  # the other one does not touch it
