"""The runner: what it refuses before it runs anything, and what it records of runs that go wrong."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys

import nbformat
import papermill
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from rezero.__main__ import main
from rezero.files import ROOT, write_text
from rezero.runner import run as runner
from rezero.runner.kernel import execute
from rezero.runner.machine import cpu_share
from rezero.runner.parameters import choose_parameters, read_flags, read_parameters, read_params_file
from rezero.runner.run import run

SOURCES = {
    "00_a": "lr = 1e-6\nsteps = 10",
    "01_b": "lr = 1e-4\nname = 'bm25'\nflag = False\nweights = [1.0, 0.5]\nseeds = [1, 2]\nmore = []\noverrides = {}\n"
    "limit: int | None = None\nrate: float | None = None\nnames: list | None = None",
}
KNOWN = [*SOURCES, "02_c"]
RENAMED = {"learning_rate": "grpo: {learning_rate: ...}", "lr": "never shown, because lr is a parameter"}


def write_book(folder, name, *sources, params="seed = 0", tags=()):
    folder.mkdir(parents=True, exist_ok=True)
    cells = [new_code_cell(source, metadata={"tags": list(tags)}) for source in sources]
    cells = [new_markdown_cell("# A title"), new_code_cell(params, metadata={"tags": ["parameters"]}), *cells]
    nbformat.write(new_notebook(cells=cells), folder / f"{name}.ipynb")
    return folder / f"{name}.ipynb"


def read_record(run_dir):
    return json.loads((run_dir / "run.json").read_text())["notebooks"]


@pytest.fixture(scope="module")
def parameters(tmp_path_factory):
    folder = tmp_path_factory.mktemp("books")
    return {stem: read_parameters(write_book(folder, stem, params=source)) for stem, source in SOURCES.items()}


# What the parameters cell may hold, and what an override


def test_parameters_cell_is_read_without_running_it(tmp_path):
    source = "# how fast\nlr = 1e-6  # per step\nseed: int = -1\nweights = [\n  1.0,\n  0.5,\n]\narms = [{'a': 1}, {}]"
    found = read_parameters(write_book(tmp_path, "00_a", params=f"{source}\nsteps: int | None = None\nrun_dir = 'x'"))
    expected = {"lr": 1e-6, "seed": -1, "weights": [1.0, 0.5], "arms": [{"a": 1}, {}], "steps": None}
    assert {name: one.default for name, one in found.items()} == expected  # run_dir is the runner's to set


@pytest.mark.parametrize(("source", "message"), [
    ("a = 1\nseed = None", ", line 2: seed = None: want `name = literal` or `name: int | None = None`"),  # of no type
    ("seed: int | None = 'x'", "seed = 'x' is str, want int | None"),
    ("a = 1\nb = a * 2", ", line 2: b = a * 2: want `name = literal`"),
    ("import os", "want `name = literal`"),
    ("a = b = 1", "want `name = literal`"),
    ("a = 1\na += 1", ", line 2: a += 1: want `name = literal`"),
    ("a = (1, 2)", "of the types str, int, float, bool, dict, list, "),  # YAML has no tuple
    ("a = [1, 'x']", "want list[int]"),
    ("a = (", "'(' was never closed (parameters cell, line 1)"),
])  # fmt: skip
def test_parameters_cell_refuses(tmp_path, source, message):
    path = write_book(tmp_path, "02_train", params=source)
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        read_parameters(path)
    assert str(error.value).startswith(str(path))


@pytest.mark.parametrize("tags", [[], ["parameters", "parameters"], None])
def test_a_notebook_needs_one_parameters_cell(tmp_path, tags):
    path = tmp_path / "00_a.ipynb"
    cells = [new_code_cell("a = 1", metadata={"tags": [tag]}) for tag in tags or []]
    path.write_text("not json" if tags is None else nbformat.writes(new_notebook(cells=cells)))
    with pytest.raises(ValueError, match=f"{re.escape(str(path))}: want a notebook with one code cell tagged"):
        read_parameters(path)


@pytest.mark.parametrize(("pair", "a", "b"), [
    ("lr=1", {"lr": 1.0}, {"lr": 1.0}),  # an int for a float; both notebooks have lr
    ("steps=3", {"steps": 3}, {}),  # only one of them has steps
    ("name=1e-6", {}, {"name": "1e-6"}),  # a string is what it wants
    ("name=a=b", {}, {"name": "a=b"}),
    ("flag=true", {}, {"flag": True}),
    ("weights=[2, 1]", {}, {"weights": [2.0, 1.0]}),
    ("seeds=[]", {}, {"seeds": []}),
    ("more=[1, a]", {}, {"more": [1, "a"]}),  # of an empty list any may be
    ("limit=null", {}, {"limit": None}),
    ("rate=2", {}, {"rate": 2.0}),
    ("overrides={grpo: {beta: 1.0e-6}}", {}, {"overrides": {"grpo": {"beta": 1e-6}}}),
])  # fmt: skip
def test_override_is_accepted(parameters, pair, a, b):
    defaults, used = (
        choose_parameters(parameters, {"-p": read_flags(pairs)}, KNOWN, RENAMED) for pairs in ([], [pair])
    )
    assert repr(used) == repr({"00_a": defaults["00_a"] | a, "01_b": defaults["01_b"] | b})  # 1.0 is not 1


@pytest.mark.parametrize(("pair", "message"), [
    ("lr=1e-6", "-p: lr: YAML reads '1e-6' as a string; write 1.0e-6 for a number"),
    ("overrides={grpo: {learning_rate: 1e-6}}", "-p: overrides: YAML reads '1e-6' as a string"),
    ("weights=[1e-3, 1.0]", "weights: YAML reads '1e-3'"),
    ("lr=fast", "lr = 'fast' is str, want float (default 1e-06)"),
    ("lr=true", "lr = True is bool, want float"),
    ("steps=3.0", "steps = 3.0 is float, want int"),
    ("flag=1", "is int, want bool"),
    ("name=7", "is int, want str (default 'bm25'); quote it twice: -p 'name=\"7\"'"),
    ("name=2024-01-01", "is date, want str"),  # YAML makes dates
    ("seeds=[1.5]", "seeds = [1.5] is list, want list[int]"),
    ("limit=true", "limit = True is bool, want int | None (default None)"),
    ("names=a", "names = 'a' is str, want list | None"),
    ("step=3", "-p: no parameter 'step' in 00_a, 01_b; allowed: flag, limit, lr, more, name, names, overrides, rate, "),
    ("learning_rate=3", "it is now set by overrides, such as -p 'overrides={grpo: {learning_rate: ...}}'"),
    ("lr", "want name=value"),
    ("lr=[1", "-p 'lr=[1': not YAML"),
])  # fmt: skip
def test_override_is_refused(parameters, pair, message):
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        choose_parameters(parameters, {"-p": read_flags([pair])}, KNOWN, RENAMED)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="want name=value, each name once"):
        read_flags(["lr=1.0", "lr=2.0"])


def test_file_of_parameters(parameters, tmp_path):
    path = tmp_path / "p.yaml"

    def choose(**flags):
        return choose_parameters(parameters, {str(path): read_params_file(path), "-p": flags}, KNOWN, RENAMED)

    # For one notebook; for all that have it; and for one that this run leaves out.
    path.write_text("01_b:\n  lr: 3.0\nlr: 2.0\n02_c:\n  other: 1\n")
    assert choose(steps=4)["00_a"] == {"lr": 2.0, "steps": 4} and choose()["01_b"]["lr"] == 3.0
    assert choose(lr=9.0)["01_b"]["lr"] == 9.0  # -p wins
    for text, message in [
        ("lr: 1e-6", "write 1.0e-6"),  # papermill would inject the string
        ("- 1", "want `name: value` lines, got list"),
        ("", "got NoneType"),
        ("a: [", "not YAML"),
        ("03_x: {lr: 1.0}", "no parameter '03_x'"),
        ("01_b: {steps: 1}", "no parameter 'steps' in 01_b"),
        ("learning_rate: 1.0", "it is now set by overrides"),
    ]:
        path.write_text(text)
        with pytest.raises(ValueError, match=re.escape(message)) as error:
            choose()
        assert str(path) in str(error.value)


# What may be run, and where


def test_notebooks_are_chosen_by_number(tmp_path):
    for name in ("01_b", "00_a", "02_c", ".ipynb_checkpoints/00_a-checkpoint"):
        write_book((tmp_path / name).parent, name.split("/")[-1])

    def names(*chosen):
        return [path.stem for path in runner.find_notebooks(list(chosen), tmp_path)]

    assert names("all") == ["00_a", "01_b", "02_c"]
    assert names("02", "00_a", "02") == ["00_a", "02_c"]  # in their order, once
    for bad in ("03", "2", "", "01_"):
        with pytest.raises(ValueError, match="allowed: all, 00_a, 01_b, 02_c"):
            names("00", bad)
    write_book(tmp_path, "02_d")
    with pytest.raises(ValueError, match="each number once"):
        names("all")
    with pytest.raises(ValueError, match="want notebooks"):
        runner.find_notebooks(["all"], tmp_path / "none")


def test_run_ids(tmp_path):
    assert re.fullmatch(r"\d{8}T\d{6}Z-\w+", runner.find_run_dir(None, tmp_path, False).name)
    killed = write_text(tmp_path / "killed" / "lock", "").parent
    (killed / ".params.yaml.x7").touch()  # before it recorded its parameters
    assert runner.find_run_dir("killed", tmp_path, False) == killed
    (killed / "traces.jsonl").touch()
    bad = ("", ".", "..", "a/b", "/abs", "a\\b", "a..b", "-x", ".hidden", "a b", "x" * 101)
    for run_id, resume, message in [
        ("killed", False, r"killed exists: choose another --run-id, or .* --resume"),
        ("killed", True, r"killed holds no params\.yaml; --resume needs the --run-id of the run to go on with"),
        (None, True, "--resume needs the --run-id"),
        *((one, False, "--run-id .*: want up to 100 letters") for one in bad),
    ]:
        with pytest.raises(ValueError, match=message):
            runner.find_run_dir(run_id, tmp_path, resume)


def test_refused_run_leaves_nothing(tmp_path, capsys):
    write_book(tmp_path / "nb", "00_a", params="lr = 1.0\nrun_dir = 'x'")
    for arguments, message in [
        ({"flags": {"learning_rate": 1}, "renamed": RENAMED}, "'learning_rate' in 00_a; it is now set by overrides"),
        ({"flags": ["run_dir=y"]}, "no parameter 'run_dir' in 00_a; allowed: lr"),
        ({"chosen": ["07"]}, "no notebook '07'"),
        ({"run_id": "../x"}, "--run-id"),
    ]:
        with pytest.raises(ValueError, match=message):
            run(**arguments, notebooks=tmp_path / "nb", runs=tmp_path / "runs")
    assert main(["run", "00", "-p", "x", "--runs-dir", str(tmp_path / "runs")]) == 2
    assert capsys.readouterr().err.startswith("error: -p 'x'")
    assert not (tmp_path / "runs").exists()


# Executions: three good ones and an interrupt in one process from elsewhere; then one for each way to fail

LOOK = """
import json, os, sys
import importlib.util
import rezero
names = ("MPLBACKEND", "OMP_NUM_THREADS")
print(json.dumps({
    "executable": sys.executable, "cwd": os.getcwd(), "rezero": list(rezero.__path__), "values": [lr, steps, run_dir],
    "widgets": importlib.util.find_spec("ipywidgets") is not None,
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
CALL = """
import sys
from rezero.runner.run import run
sys.exit(run([], ["lr=1"], None, "one", notebooks=sys.argv[1], runs=sys.argv[2]))
"""


def start(books, runs, said, **env):
    """Start a run of all `books` in another process, and wait until a cell says something: output is live."""
    command = [sys.executable, "-c", CALL, str(books), str(runs)]
    process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)} | env, cwd=books.parent, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
    lines = []
    while f"{said}\n" not in lines:
        lines.append(process.stdout.readline())
        assert lines[-1], process.stderr.read()
    return process, "".join(lines)


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """A run of two notebooks, started elsewhere, on a machine full of traps, and stopped in the second one."""
    tmp = tmp_path_factory.mktemp("run")
    books, runs, traps = tmp / "with {braces}", tmp / "runs", tmp / "traps"  # papermill str.formats its paths
    write_book(books, "00_good", LOOK, BARS, SUMMARY, params="lr = 1e-6\nsteps: int | None = None\nrun_dir = 'none'")
    write_book(books, "01_wait", WAIT, "1 + 1")
    spec = {"argv": ["/bin/false", "{connection_file}"], "display_name": "not this interpreter", "language": "python"}
    write_text(traps / "kernels" / "python3" / "kernel.json", json.dumps(spec))
    (traps / "ipywidgets.py").write_text("")
    python_path = os.pathsep.join([str(ROOT), str(traps)])
    process, out = start(books, runs, "waiting", JUPYTER_PATH=str(traps), PYTHONPATH=python_path, MPLBACKEND="Agg")
    with pytest.raises(OSError, match=r"lock.* could not be acquired"):  # by two at a time
        run([], [], None, "one", resume=True, notebooks=books, runs=runs)
    process.send_signal(signal.SIGINT)
    rest, err = process.communicate(timeout=30)
    return {"process": process, "out": out + rest, "err": err, "books": books, "runs": runs, "run_dir": runs / "one"}


def test_good_notebook(interrupted):
    run_dir = interrupted["run_dir"]
    book = nbformat.read(run_dir / "00_good.ipynb", as_version=4)
    cells, saw = book.cells, json.loads(book.cells[3].outputs[0].text)
    assert saw["executable"] == sys.executable  # not the `python3` kernel of this machine
    assert saw["cwd"] == str(interrupted["books"])  # as in JupyterLab, wherever the runner is called from
    assert saw["rezero"] == [str(ROOT / "rezero")]
    assert saw["values"] == [1.0, None, str(run_dir)]
    assert saw["widgets"] is False  # a saved widget bar stays at 0/50
    assert saw["MPLBACKEND"] == "module://matplotlib_inline.backend_inline"  # Agg would drop the figures
    assert saw["OMP_NUM_THREADS"] == os.environ.get("OMP_NUM_THREADS", str(cpu_share()))
    outputs = cells[4].outputs  # tqdm writes some 30 fragments; one stream each is left
    assert [out.name for out in outputs] == ["stdout", "stderr"]
    assert outputs[0].text.count("step") == 20 and "100%" in outputs[1].text and "IProgress" not in outputs[1].text
    assert cells[2].source.splitlines()[1:] == ["lr = 1.0", f'run_dir = "{run_dir}"']  # only what was changed
    assert "widgets" not in book.metadata


def test_records(interrupted):
    run_dir, expected = interrupted["run_dir"], {"00_good": {"lr": 1.0, "steps": None}, "01_wait": {"seed": 0}}
    assert yaml.safe_load((run_dir / "params.yaml").read_text()) == expected
    text = (run_dir / "environment.txt").read_text()
    assert re.match(r"time: .*\npython: .* on .*, \d+ CPUs(, load \d+\.\d before)?\ngpu: .*\ngit: .*\n\n", text)
    assert "\npapermill==" in text
    assert read_record(run_dir)["00_good"].items() >= {"status": "done", "error": ""}.items()
    assert "[1/2] 00_good {'lr': 1.0}\n" in interrupted["out"]
    assert re.search(rf"done after [\d.]+ s: {run_dir}/00_good\.ipynb\n", interrupted["out"])
    assert "step 19\n" in interrupted["out"]
    assert "IPKernelApp" not in interrupted["err"]  # the kernel's own log alarms for nothing


def test_interrupt_is_recorded_and_resumed(interrupted, capsys):
    run_dir, places = interrupted["run_dir"], {"notebooks": interrupted["books"], "runs": interrupted["runs"]}
    assert interrupted["process"].returncode == 130
    assert (failed := read_record(run_dir)["01_wait"])["status"] == "failed"
    assert "01_wait, cell 3 (In [3]): KeyboardInterrupt" in interrupted["err"]
    assert "--run-id one --resume" in interrupted["err"]
    with pytest.raises(ValueError, match="one exists"):
        run(run_id="one", **places)
    with pytest.raises(ValueError, match=r"started 00_good with \{'lr': 1.0\}; other values need another name"):
        run(flags=["lr=2"], run_id="one", resume=True, **places)
    (run_dir / "second-time").touch()
    before = (run_dir / "00_good.ipynb").stat().st_mtime_ns
    assert run(flags={"lr": 1}, run_id="one", resume=True, **places) == 0
    assert (run_dir / "00_good.ipynb").stat().st_mtime_ns == before
    assert {entry["status"] for entry in read_record(run_dir).values()} == {"done"}
    assert read_record(run_dir)["01_wait"]["seconds"] > failed["seconds"] > 0  # of both starts
    out = capsys.readouterr().out
    assert f"done before: {run_dir}/00_good.ipynb\n" in out
    assert "\naccuracy 0.5 [0.4, 0.6]\n\nnext:\n  python -m rezero run NOTEBOOKS --run-id one --resume" in out
    assert (run_dir / "environment.txt").read_text().count("python: ") == 2  # each start's own


@pytest.mark.parametrize(("source", "error"), [
    ("1 / 0", "ZeroDivisionError: division by zero"),
    # papermill: marks this cell and the next completed, and records no exception
    ("import os; os.kill(os.getpid(), 9)", "DeadKernelError: the kernel was killed"),
    ("import sys; sys.exit(0)", "SystemExit: the cell called sys.exit()"),  # papermill: exit status 0
])  # fmt: skip
def test_failures(tmp_path, capsys, source, error):
    write_book(tmp_path, "00_bad", "2 + 2", source, "3 + 3", tags=["raises-exception"])  # papermill: goes on
    write_book(tmp_path, "01_next", "1 + 1")
    assert run([], run_id="bad", notebooks=tmp_path, runs=tmp_path) == 1
    record = read_record(tmp_path / "bad")
    assert {stem: entry["status"] for stem, entry in record.items()} == {"00_bad": "failed"}
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
    assert re.search(rf"failed after [\d.]+ s: {tmp_path / 'bad' / '00_bad.ipynb'}\n", captured.out)
    assert not (tmp_path / "bad" / "01_next.ipynb").exists()


def test_kernel_that_cannot_start(tmp_path, monkeypatch):
    write_book(tmp_path, "00_a", "1 + 1")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no-python"))
    assert run([], run_id="x", notebooks=tmp_path, runs=tmp_path) == 1
    error = read_record(tmp_path / "x")["00_a"]["error"]
    assert "before the first cell: " in error and "no-python" in error
    assert '"completed"' not in (tmp_path / "x" / "00_a.ipynb").read_text().split('"# A title"')[1]


def test_a_copy_that_cannot_be_written_whole_is_no_copy(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError("no space left on device")

    copy = write_text(tmp_path / "copy.ipynb", '{"cells": [')
    monkeypatch.setattr(papermill, "execute_notebook", fail)
    error = execute(write_book(tmp_path, "00_a"), copy, {})
    assert error.endswith("copy.ipynb was not written: OSError: no space left on device") and not copy.exists()


CLONE = """
import sys
from pathlib import Path
clone, books = Path(sys.argv[1]), Path(sys.argv[2])
sys.path.insert(0, str(clone))
from rezero.runner.run import run
from rezero.runner.sweep import sweep
assert run([], run_id="one", notebooks=books, runs=books / "runs") == 0
sys.path.append(str(books))
sweep({"a": {}, "b": {}}, books / "sweep", "where:work")
"""


def test_what_a_clone_starts_uses_that_clone_whatever_its_path_is_called(tmp_path):
    """A ":" separates the folders of PYTHONPATH, and jupyter_client expands $HOME in a kernel's variables."""
    clone, books = tmp_path / "a:b $HOME {x} 'y'", tmp_path / "books"
    shutil.copytree(ROOT / "rezero", clone / "rezero")
    write_book(books, "00_where", "import rezero\nprint(rezero.__path__)", params="seed = 0\nrun_dir = 'none'")
    (books / "where.py").write_text("import rezero\ndef work(folder):\n    print(rezero.__path__)\n")
    subprocess.run([sys.executable, "-c", CLONE, str(clone), str(books)], check=True, env=os.environ | {"HOME": "/"})
    cells = nbformat.read(books / "runs" / "one" / "00_where.ipynb", as_version=4).cells
    logs = [(books / "sweep" / f"{job}.log").read_text() for job in "ab"]
    assert [cells[-1].outputs[0].text, *logs] == 3 * [f"{[str(clone / 'rezero')]}\n"]


@pytest.mark.parametrize(("module", "said"), [
    ("import sys, types; sys.modules['rezero'] = one = types.ModuleType('rezero'); one.__path__ = ['/other/rezero']",
     "'/other/rezero'"),
    ("import sys; sys.modules['rezero'] = None", "import of rezero halted"),
])  # fmt: skip
def test_no_cell_runs_in_a_kernel_with_another_rezero(tmp_path, monkeypatch, module, said):
    traps = write_text(tmp_path / "traps" / "sitecustomize.py", module).parent
    monkeypatch.setenv("PYTHONPATH", str(traps))
    write_book(tmp_path / "books", "00_a", "open(run_dir + '/harm', 'w')", params="run_dir = 'none'")
    assert run([], run_id="x", notebooks=tmp_path / "books", runs=tmp_path) == 1
    error = read_record(tmp_path / "x")["00_a"]["error"]
    assert "before the first cell: the kernel's rezero is not that of the runner" in error and said in error
    assert not (tmp_path / "x" / "harm").exists()


@pytest.mark.parametrize(("source", "status"), [("1 + 1", "done"), ("raise ValueError('x' * 10_000)", "failed")])
def test_a_disk_that_fills_up_leaves_no_notebook_running(tmp_path, monkeypatch, source, status):
    write_book(tmp_path, "00_a", source)
    texts = []

    def write(path, text):
        if path.name == "run.json":
            texts.append(text)
            if len(texts) > 1:
                raise OSError(28, "No space left on device")
        return write_text(path, text)

    monkeypatch.setattr(runner, "write_text", write)
    assert run([], run_id="x", notebooks=tmp_path, runs=tmp_path) == (status == "failed")
    assert json.loads(texts[0])["notebooks"]["00_a"]["status"] == "running"
    assert read_record(tmp_path / "x")["00_a"]["status"] == status
    assert (tmp_path / "x" / "run.json").stat().st_size < 2**10


# A runner that is killed: what its kernel started would live on

WRITE = """
import subprocess
from pathlib import Path
times = 20 if Path(run_dir, "writes.txt").exists() else 10_000
write = f"echo $$ >> {run_dir}/writes.txt; [ $i = 1 ] && echo writing; sleep 0.02"
subprocess.run(f"for i in $(seq {times}); do {write}; done", shell=True, check=True)
"""


def test_a_killed_run_and_the_one_that_goes_on_with_it_never_both_write(tmp_path):
    books, runs = tmp_path / "books", tmp_path / "runs"
    write_book(books, "00_write", WRITE, params="lr = 1e-6\nrun_dir = 'none'")
    process, _ = start(books, runs, "writing")
    process.kill()
    process.wait()  # not for the pipes, which the writer holds as well
    assert read_record(runs / "one")["00_write"]["status"] == "running"
    assert run(run_id="one", resume=True, notebooks=books, runs=runs) == 0
    writers = (runs / "one" / "writes.txt").read_text().split()
    assert len(set(writers)) == 2 and writers[-20:] == [writers[-1]] * 20
    assert writers[-1] not in writers[:-20]  # the first had ended when the second began
    assert read_record(runs / "one")["00_write"]["status"] == "done"


def test_a_run_of_some_notebooks_goes_on_with_those_and_their_parameters(tmp_path):
    places = dict(run_id="one", notebooks=tmp_path, runs=tmp_path / "runs")
    write_book(tmp_path, "00_a", "1 / seed")
    write_book(tmp_path, "01_b", "1 / 0")
    assert run(["00"], **places) == 1
    write_book(tmp_path, "00_a", "1 / (seed + 1)", params="seed = -1")
    assert run(resume=True, **places) == 0
    assert {stem: entry["status"] for stem, entry in read_record(tmp_path / "runs" / "one").items()} == {"00_a": "done"}


@pytest.mark.parametrize("entries", [None, [], "done", {"00_a": "done"}, {"00_a": {"seconds": "9"}}])
def test_a_record_of_another_shape_is_named(tmp_path, entries):
    write_book(tmp_path, "00_a", "1 + 1")
    assert run([], run_id="x", notebooks=tmp_path, runs=tmp_path) == 0
    (tmp_path / "x" / "run.json").write_text(json.dumps({"run_id": "x", "notebooks": entries}))
    with pytest.raises(ValueError, match=r"x/run\.json: notebooks is .*; want one object per notebook"):
        run([], run_id="x", resume=True, notebooks=tmp_path, runs=tmp_path)
