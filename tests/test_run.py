"""The runner: what it refuses before it runs anything, and what it records of runs that go wrong."""

import json
import os
import re
import signal
import subprocess
import sys

import nbformat
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from rezero.__main__ import main
from rezero.files import ROOT
from rezero.runner import kernel as environment
from rezero.runner import parameters
from rezero.runner import run as runner
from rezero.runner.run import run

TAGGED = {"tags": ["parameters"]}
DEFAULTS = {
    "00_a": {"lr": 1e-6, "steps": 10, "run_dir": "x"},
    "01_b": {"lr": 1e-4, "name": "bm25", "flag": False, "weights": [1.0, 0.5], "seeds": [1, 2]},
}
KNOWN = [*DEFAULTS, "02_c"]


def write_book(folder, name, *cells, params="run_dir = 'none'"):
    folder.mkdir(parents=True, exist_ok=True)
    cells = [new_markdown_cell("# A title"), new_code_cell(params, metadata=TAGGED), *map(new_code_cell, cells)]
    nbformat.write(new_notebook(cells=cells), folder / f"{name}.ipynb")


def read_record(run_dir):
    return json.loads((run_dir / "run.json").read_text())["notebooks"]


# What the parameters cell may hold


def test_parameters_cell_is_read_without_running_it():
    source = "# how fast\nlr = 1e-6  # per step\nseed: int = -1\nname = 'a'\nweights = [\n  1,\n  0.5,\n]\non = True"
    expected = {"lr": 1e-6, "seed": -1, "name": "a", "weights": [1, 0.5], "on": True}
    assert parameters.parse_parameters("arms = [{'a': 1}, {}]", "x") == {"arms": [{"a": 1}, {}]}
    assert parameters.parse_parameters(source, "x") == expected


@pytest.mark.parametrize(("source", "message"), [
    ("a = 1\nseed = None", "line 2: seed = None: want str, bool, int"),  # no type to check an override against
    ("seed: int | None = None", "line 1"),  # papermill does not even see this one
    ("a = 1\nb = a * 2", "line 2: b = a * 2: not a plain literal; derive values in the next cell"),  # stale
    ("import os", "line 1: import os: only lines"),
    ("a, b = 1, 2", "only lines"),
    ("a = b = 1", "only lines"),
    ("seed: int", "not a plain literal"),  # no default
    ("a = 1\na += 1", "line 2"),
    ("a = 1\na = 2", "line 2: a = 2: set twice"),
    ("a = {1, 2}", "got set"),
    ("a = (1, 2)", "got tuple"),  # YAML has none
    ("a = []", "got empty list"),  # of what?
    ("a = [1, 'x']", "got mixed list"),
    ("a = [None]", "got mixed list"),
    ("a = (", "line 1"),
])  # fmt: skip
def test_parameters_cell_refuses(source, message):
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        parameters.parse_parameters(source, "02_train.ipynb, parameters cell")
    assert str(error.value).startswith("02_train.ipynb, parameters cell, line ")


def test_notebook_needs_one_parameters_cell_and_no_tolerated_errors(tmp_path):
    path = tmp_path / "00_a.ipynb"
    for cells, message in [
        ([new_code_cell("a = 1")], "exactly one code cell tagged 'parameters', found 0"),  # injected, then undone
        ([new_code_cell("a = 1", metadata=TAGGED), new_code_cell("b = 1", metadata=TAGGED)], "found 2"),
        ([new_code_cell("a = 1", metadata=TAGGED), new_code_cell("", metadata={"tags": ["raises-exception"]})],
         "raises-exception"),
    ]:  # fmt: skip
        nbformat.write(new_notebook(cells=cells), path)
        with pytest.raises(ValueError, match=message) as error:
            parameters.read_parameters(path)
        assert str(path) in str(error.value)
    path.write_text("not json")
    with pytest.raises(ValueError, match=r"00_a\.ipynb: not a readable notebook"):
        parameters.read_parameters(path)


# What an override may be


@pytest.mark.parametrize(("pairs", "expected"), [
    (["lr=1"], {"00_a": {"lr": 1.0}, "01_b": {"lr": 1.0}}),  # an int for a float; both notebooks have lr
    (["steps=3"], {"00_a": {"steps": 3}, "01_b": {}}),  # only one of them has steps
    (["name='007'", "flag=true"], {"00_a": {}, "01_b": {"name": "007", "flag": True}}),
    (["weights=[2, 1]"], {"00_a": {}, "01_b": {"weights": [2.0, 1.0]}}),
    (["seeds=[]"], {"00_a": {}, "01_b": {"seeds": []}}),
    (["name=a=b"], {"00_a": {}, "01_b": {"name": "a=b"}}),
])  # fmt: skip
def test_override_is_accepted(pairs, expected):
    checked = parameters.overrides(parameters.read_flags(pairs), DEFAULTS, "-p", KNOWN)
    assert checked == expected
    assert all(type(item) is float for values in checked.values() for item in values.get("weights", []))


@pytest.mark.parametrize(("pair", "message"), [
    ("lr=1e-6", "lr = '1e-6' is str, want float (default 1e-06); YAML reads 1e-6 as a string: write 1.0e-6"),
    ("lr=true", "lr = True is bool, want float"),
    ("steps=3.0", "steps = 3.0 is float, want int"),
    ("steps=true", "is bool, want int"),  # bool is an int to Python, not to us
    ("flag=1", "is int, want bool"),
    ("name=7", "is int, want str (default 'bm25'); quote it twice: -p 'name=\"7\"'"),
    ("name=", "is None, want str"),
    ("name=2024-01-01", "is date, want str"),  # YAML makes dates
    ("weights=[1e-3, 1.0]", "is mixed list, want list of float"),
    ("weights=0.5", "is float, want list of float"),
    ("seeds=[1.5]", "is list of float, want list of int"),
    ("seeds=[true]", "is list of bool, want list of int"),
    ("step=3", "no parameter 'step' in 00_a, 01_b; allowed: flag, lr, name, seeds, steps, weights"),
    ("run_dir=y", "no parameter 'run_dir' (set by --run-id"),  # ours to set
    ("lr", "want name=value"),
    ("0x=1", "want name=value"),
    ("lr=[1", "not a YAML value"),
])  # fmt: skip
def test_override_is_refused(pair, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        parameters.overrides(parameters.read_flags([pair]), DEFAULTS, "-p", KNOWN)


def test_same_flag_twice_is_refused():
    with pytest.raises(ValueError, match="lr is given twice"):
        parameters.read_flags(["lr=1.0", "lr=2.0"])


def test_file_of_parameters(tmp_path, capsys):
    path = tmp_path / "p.yaml"
    # For all that have it; for one notebook, after that; and for one that this run leaves out.
    path.write_text("lr: 2.0\n01_b:\n  lr: 3.0\n02_c:\n  other: 1\n")
    used = parameters.choose_parameters(DEFAULTS, {"steps": 4}, str(path), {}, KNOWN)
    assert used["00_a"] == {"lr": 2.0, "steps": 4}  # run_dir is no setting, it is not among them
    assert used["01_b"] == DEFAULTS["01_b"] | {"lr": 3.0}
    assert parameters.choose_parameters(DEFAULTS, {"lr": 9.0}, str(path), {}, KNOWN)["01_b"]["lr"] == 9.0  # -p wins
    printed = capsys.readouterr().out
    assert f"01_b: lr = 3.0 (default 0.0001, from {path})" in printed
    assert "00_a: steps = 4 (default 10, from -p)" in printed
    for text, message in [
        ("lr: 1e-6", "write 1.0e-6"),  # papermill would inject the string
        ("lr: 1.0\nlr: 2.0", "set twice: ['lr']"),  # YAML would keep the last
        ("- 1", "want `name: value` lines, got list of int"),
        ("", "got None"),
        ("a: [", "not YAML"),
        ("03_x: {lr: 1.0}", "no parameter '03_x'"),
        ("01_b: {steps: 1}", "no parameter 'steps' in 01_b"),
    ]:
        path.write_text(text)
        with pytest.raises(ValueError, match=re.escape(message)) as error:
            parameters.choose_parameters(DEFAULTS, {}, str(path), {}, KNOWN)
        assert str(path) in str(error.value)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.yaml: no such file"):
        parameters.read_params_file("nowhere.yaml")


def test_resumed_run_keeps_its_parameters():
    recorded = {"00_a": {"lr": 5.0, "steps": 10}}
    assert parameters.choose_parameters(DEFAULTS, {}, None, recorded, KNOWN)["00_a"]["lr"] == 5.0
    assert parameters.choose_parameters(DEFAULTS, {"steps": 10}, None, recorded, KNOWN)["00_a"]["lr"] == 5.0
    with pytest.raises(ValueError, match=re.escape("00_a started with steps = 10")):
        parameters.choose_parameters(DEFAULTS, {"steps": 11}, None, recorded, KNOWN)


# What may be run, and where


def test_notebooks_are_chosen_by_number(tmp_path):
    for name in ("01_b", "00_a", "02_c"):
        write_book(tmp_path, name)
    write_book(tmp_path / ".ipynb_checkpoints", "00_a-checkpoint")

    def names(*chosen):
        return [path.stem for path in runner.find_notebooks(list(chosen), tmp_path)]

    assert names("all") == ["00_a", "01_b", "02_c"]
    assert names("02", "00_a", "02") == ["00_a", "02_c"]  # in their order, once
    for bad in ("03", "2", "", "01_"):
        with pytest.raises(ValueError, match="choose from all, 00_a, 01_b, 02_c"):
            names("00", bad)
    write_book(tmp_path, "02_d")
    with pytest.raises(ValueError, match="each number once"):
        names("all")
    with pytest.raises(ValueError, match="want notebooks"):
        runner.find_notebooks(["all"], tmp_path / "none")


def test_run_ids(tmp_path):
    assert re.fullmatch(r"\d{8}T\d{6}Z-\w+", runner.find_run_dir(None, tmp_path, False).name)
    for bad in ("", ".", "..", "a/b", "/abs", "a\\b", "a..b", "-x", ".hidden", "a b", "x" * 101):
        with pytest.raises(ValueError, match="--run-id"):
            runner.find_run_dir(bad, tmp_path, False)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "run").touch()
    with pytest.raises(ValueError, match=r"taken exists: choose another --run-id, or .* --resume"):
        runner.find_run_dir("taken", tmp_path, False)
    (tmp_path / "killed").mkdir()  # by a run that had recorded no more than this
    for name in ("lock", "params.yaml", ".environment.txt.x7"):
        (tmp_path / "killed" / name).touch()
    assert runner.find_run_dir("killed", tmp_path, False) == tmp_path / "killed"
    (tmp_path / "killed" / "traces.jsonl").touch()
    with pytest.raises(ValueError, match="killed exists"):
        runner.find_run_dir("killed", tmp_path, False)
    with pytest.raises(ValueError, match=r"taken holds no run\.json"):
        runner.find_run_dir("taken", tmp_path, True)
    with pytest.raises(ValueError, match="--resume needs the --run-id"):
        runner.find_run_dir(None, tmp_path, True)


def test_refused_run_leaves_nothing(tmp_path, monkeypatch):
    write_book(tmp_path / "nb", "00_a", params="lr = 1.0")
    for arguments in ({"flags": ["nope=1"]}, {"chosen": ["07"]}, {"run_id": "../x"}):
        with pytest.raises(ValueError):
            run(**arguments, notebooks=tmp_path / "nb", runs=tmp_path / "runs")
    monkeypatch.setattr(environment.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"no Jupyter kernel: .* has no ipykernel"):
        run(notebooks=tmp_path / "nb", runs=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_command_line(capsys, tmp_path, monkeypatch):
    assert main([]) == 0 and "run " in capsys.readouterr().out
    monkeypatch.chdir(tmp_path)
    assert main(["run", "--run-id", "a/b"]) == 2
    assert main(["run", "00", "-p", "x", "--runs-dir", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("error: ") == 2
    assert runner.shown(ROOT / "papermill_runs" / "a") == "papermill_runs/a"  # records carry no machine's paths
    assert runner.shown(tmp_path) == str(tmp_path)


# Executions: three good ones and an interrupt in one process from elsewhere; then one for each way to fail

LOOK = """
import json, os, sys
import importlib.util
import rezero
names = ("MPLBACKEND", "OMP_NUM_THREADS", "PYTHONUNBUFFERED", "IPYTHONDIR")
print(json.dumps({
    "executable": sys.executable, "cwd": os.getcwd(), "rezero": rezero.__file__,
    "widgets": importlib.util.find_spec("ipywidgets") is not None, "lr": lr, "steps": steps, "run_dir": run_dir,
} | {name: os.environ.get(name) for name in names}))
"""
BARS = """
from tqdm.auto import tqdm
for i in tqdm(range(20)):
    print("step", i)
"""
SUMMARY = "open(run_dir + '/summary.txt', 'w').write('accuracy 0.5 [0.4, 0.6]\\n')"
WAIT = """
import os, time
if not os.path.exists(run_dir + "/second-time"):
    print("waiting", flush=True)
    time.sleep(100)
"""
CALL = "import sys; from rezero.run import run; " \
    "sys.exit(run([], ['lr=1'], None, 'one', notebooks=sys.argv[1], runs=sys.argv[2]))"  # fmt: skip


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """A run of two notebooks, started elsewhere, on a machine full of traps, and stopped in the second one."""
    tmp = tmp_path_factory.mktemp("run")
    books, runs, traps = tmp / "with {braces}", tmp / "runs", tmp / "traps"  # papermill str.formats its paths
    write_book(books, "00_good", LOOK, BARS, SUMMARY, params="lr = 1e-6\nsteps = 5\nrun_dir = 'none'")
    write_book(books, "01_wait", WAIT, "1 + 1")
    for name in ("python3", "rezero"):  # kernels by these names that are not this interpreter
        (traps / "kernels" / name).mkdir(parents=True)
        spec = {"argv": ["/bin/false", "{connection_file}"], "display_name": name, "language": "python"}
        (traps / "kernels" / name / "kernel.json").write_text(json.dumps(spec))
    (traps / "ipywidgets.py").write_text("")
    python_path = os.pathsep.join([str(ROOT), str(traps)])
    env = os.environ | {"JUPYTER_PATH": str(traps), "PYTHONPATH": python_path, "MPLBACKEND": "Agg"}
    process = subprocess.Popen([sys.executable, "-c", CALL, str(books), str(runs)], env=env, cwd=tmp, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
    lines = []
    for line in process.stdout:  # a line that comes while its cell still runs: output is live
        lines.append(line.rstrip())
        if line == "waiting\n":
            break
    with pytest.raises(ValueError) as locked:
        run([], [], None, "one", resume=True, notebooks=books, runs=runs)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    return {"process": process, "out": "\n".join(lines) + "\n" + out, "err": err, "books": books, "runs": runs,
            "run_dir": runs / "one", "locked": str(locked.value)}  # fmt: skip


def test_good_notebook(interrupted):
    run_dir = interrupted["run_dir"]
    cells = nbformat.read(run_dir / "00_good.ipynb", as_version=4).cells
    saw = json.loads(cells[3].outputs[0].text)
    assert saw["executable"] == sys.executable  # not the `python3` kernel of this machine
    assert saw["cwd"] == str(interrupted["books"])  # as in JupyterLab, wherever the runner is called from
    assert saw["rezero"] == str(ROOT / "rezero" / "__init__.py")
    assert (saw["lr"], saw["steps"], saw["run_dir"]) == (1.0, 5, str(run_dir))
    assert saw["widgets"] is False  # a saved widget bar stays at 0/50
    assert saw["MPLBACKEND"] == "module://matplotlib_inline.backend_inline"  # Agg would drop the figures
    assert saw["OMP_NUM_THREADS"] == os.environ.get("OMP_NUM_THREADS", str(environment.cpu_share()))
    outputs = cells[4].outputs  # tqdm writes some 30 fragments; one stream each is left
    assert [out.name for out in outputs] == ["stdout", "stderr"]
    assert outputs[0].text.count("step") == 20 and "100%" in outputs[1].text and "IProgress" not in outputs[1].text
    assert cells[2].source.splitlines()[1:] == ["lr = 1.0", f'run_dir = "{run_dir}"']  # only what was changed
    assert "widgets" not in nbformat.read(run_dir / "00_good.ipynb", as_version=4).metadata


def test_records(interrupted):
    run_dir = interrupted["run_dir"]
    assert yaml.safe_load((run_dir / "params.yaml").read_text()) == {"00_good": {"lr": 1.0, "steps": 5}, "01_wait": {}}
    text = (run_dir / "environment.txt").read_text()
    assert "git: " in text and "\npapermill==" in text and "\ncpus: " in text
    assert read_record(run_dir)["00_good"].items() >= {"status": "done", "error": None}.items()
    assert "00_good: lr = 1.0 (default 1e-06, from -p)" in interrupted["out"]
    assert re.search(r"\[1/2\] 00_good: done after [\d.]+ s\n", interrupted["out"])
    assert "step 19\n" in interrupted["out"]
    assert "IPKernelApp" not in interrupted["err"]  # the kernel's own log alarms for nothing


def test_second_process_is_locked_out(interrupted):
    assert interrupted["locked"].endswith(f"is being written by process {interrupted['process'].pid}")


def test_interrupt_is_recorded_and_resumed(interrupted, capsys):
    run_dir, places = interrupted["run_dir"], {"notebooks": interrupted["books"], "runs": interrupted["runs"]}
    assert interrupted["process"].returncode == 130
    assert read_record(run_dir)["01_wait"]["status"] == "failed"
    assert "01_wait, cell 3 (In [3]): KeyboardInterrupt" in interrupted["err"]
    assert "--run-id one" in interrupted["err"] and "--resume" in interrupted["err"]
    with pytest.raises(ValueError, match="one exists"):
        run(run_id="one", **places)
    (run_dir / "second-time").touch()
    before = (run_dir / "00_good.ipynb").stat().st_mtime_ns
    assert run(run_id="one", resume=True, **places) == 0
    assert (run_dir / "00_good.ipynb").stat().st_mtime_ns == before
    assert {entry["status"] for entry in read_record(run_dir).values()} == {"done"}
    out = capsys.readouterr().out
    assert "[1/2] 00_good: done before, skipped" in out
    assert f"done: {run_dir}/00_good.ipynb\ndone: {run_dir}/01_wait.ipynb\n" in out
    assert out.endswith("accuracy 0.5 [0.4, 0.6]\n")
    assert (run_dir / "environment.txt").read_text().count("python: ") == 2  # each start's own
    assert "lr: 1.0" in (run_dir / "params.yaml").read_text()


@pytest.mark.parametrize(("source", "error"), [
    ("1 / 0", "ZeroDivisionError: division by zero"),
    # papermill: marks this cell and the next completed, and records no exception
    ("import os; os.kill(os.getpid(), 9)", "DeadKernelError: the kernel was killed"),
    ("import sys; sys.exit(0)", "SystemExit: "),  # papermill: exit status 0
])  # fmt: skip
def test_failures(tmp_path, capsys, source, error):
    write_book(tmp_path, "00_bad", "2 + 2", source, "3 + 3")
    write_book(tmp_path, "01_next", "1 + 1")
    assert run([], run_id="bad", notebooks=tmp_path, runs=tmp_path) == 1
    record = read_record(tmp_path / "bad")
    assert [entry["status"] for entry in record.values()] == ["failed", "pending"]
    message = record["00_bad"]["error"]  # a kernel killed at once may not have said its In [4] yet
    assert re.match(r"cell 4 \(In \[[ 4]\]\): " + re.escape(error), message)
    book = nbformat.read(tmp_path / "bad" / "00_bad.ipynb", as_version=4)
    assert book.metadata.papermill.exception is True
    statuses = [cell.metadata.papermill.status for cell in book.cells if cell.source in ("2 + 2", source, "3 + 3")]
    assert statuses == ["completed", "failed", "pending"]
    outputs = next(cell.outputs for cell in book.cells if cell.source == source)
    assert [out.ename for out in outputs if out.output_type == "error"] == [error.split(": ")[0]]
    captured = capsys.readouterr()
    assert f"00_bad, {message}" in captured.err
    assert f"failed: {tmp_path / 'bad' / '00_bad.ipynb'}\n" in captured.out
    assert not (tmp_path / "bad" / "01_next.ipynb").exists()


# A runner that is killed: its kernel lives on until it notices

WRITE = """
import os, time
from pathlib import Path
mine, path = f"{os.getpid()}\\n", Path(run_dir, "writes.txt")
print("writing", flush=True)
for i in range(1000 if not path.exists() else 20):
    with path.open("a") as file:
        file.write(mine)
    time.sleep(0.02)
"""


def test_a_killed_run_and_the_one_that_goes_on_with_it_never_both_write(tmp_path):
    books, runs = tmp_path / "books", tmp_path / "runs"
    write_book(books, "00_write", WRITE, params="lr = 1e-6\nrun_dir = 'none'")
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", CALL, str(books), str(runs)], env=env, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)  # fmt: skip
    for line in process.stdout:
        if line == "writing\n":
            break
    process.kill()
    process.wait()
    assert read_record(runs / "one")["00_write"]["status"] == "running"
    assert run(run_id="one", resume=True, notebooks=books, runs=runs) == 0
    writers = (runs / "one" / "writes.txt").read_text().split()
    assert len(set(writers)) == 2 and writers[-20:] == [writers[-1]] * 20
    assert writers[-1] not in writers[:-20]  # the first had ended when the second began
    assert read_record(runs / "one")["00_write"]["status"] == "done"


def test_a_run_of_some_notebooks_goes_on_with_those(tmp_path):
    places = dict(run_id="one", notebooks=tmp_path / "books", runs=tmp_path / "runs")
    write_book(tmp_path / "books", "00_a", "1 / 0")
    write_book(tmp_path / "books", "01_b", "1 / 0")
    assert run(["00"], **places) == 1
    write_book(tmp_path / "books", "00_a", "1 / 1")
    assert run(resume=True, **places) == 0
    assert read_record(tmp_path / "runs" / "one")["00_a"]["status"] == "done"


def test_a_copy_that_could_not_be_written_whole_is_no_copy(tmp_path):
    """As papermill leaves it on a full disk."""
    (tmp_path / "00_a.ipynb").write_text('{"cells": [')
    message = runner.settle_copy(tmp_path / "00_a.ipynb", ("OSError", "[Errno 28] No space left on device"))
    assert message.endswith("00_a.ipynb could not be written: OSError: [Errno 28] No space left on device")
    assert not (tmp_path / "00_a.ipynb").exists()


def test_kernel_that_cannot_start(tmp_path, monkeypatch):
    write_book(tmp_path, "00_a", "1 + 1")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no-python"))
    assert run([], run_id="x", notebooks=tmp_path, runs=tmp_path) == 1
    error = read_record(tmp_path / "x")["00_a"]["error"]
    assert error.startswith("before the first cell: ") and "no-python" in error
