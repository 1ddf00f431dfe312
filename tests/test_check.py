"""What is refused before anything is loaded: names and values of commands, of notebooks' parameters and of arms."""

import json
import subprocess
import sys

import pytest

from rezero.__main__ import main
from rezero.analysis import check
from rezero.analysis.check import check_notebooks
from rezero.files import ROOT
from rezero.runner.parameters import read_parameters
from rezero.runner.run import NOTEBOOKS

KEPT = ROOT / "papermill_runs" / "reference"
WRONG = [  # command, what is said
    (["run", "02", "-p", "steps=many"], "steps = 'many' is str, want int"),
    (["run", "02", "-p", "profile=labtop"], "02_train_grpo: unknown profile 'labtop'; allowed: "),
    (["run", "02", "-p", "reward_set=bribes"], "02_train_grpo: unknown reward set 'bribes'; allowed: "),
    (["run", "02", "-p", "overrides={reward_weights: {bribe: 1}}"], "unknown reward 'bribe'; allowed: "),
    (["run", "02", "-p", "overrides={reward_weights: {'os:bribe': 1}}"], "reward 'os:bribe' cannot be loaded"),
    (["run", "02", "-p", "overrides={reward_weights: {recovery: much}}"], "reward_weights.recovery is 'much'"),
    (["run", "02", "-p", "overrides={engine: bm52}"], "unknown engine 'bm52'; allowed: bm25, "),
    (["run", "02", "-p", "overrides={engine: 'no_such_module:search'}"], "No module named 'no_such_module'"),
    (["run", "02", "-p", "overrides={policy: data/polcy}"], "no policy in "),
    (["run", "02", "-p", "overrides={corpus: data/nowhere}"], "no corpus at "),
    (["run", "02", "-p", "overrides={prompt_style: long}"], "unknown prompt_style 'long'; allowed: full, short"),
    (["run", "02", "-p", "overrides={collapse: {limits: {lies: 1}}}"], "collapse.limits names 'lies'; allowed: "),
    (["run", "02", "-p", "overrides={stepz: 1}"], "unknown field 'stepz'; allowed: "),
    (["run", "02", "-p", "overrides={steps: 1}"], "overrides: steps is a parameter of its own"),
    (["run", "03", "-p", "reward_sets=[correctness, bribes]"], "03_reward_ablations: unknown reward set 'bribes'"),
    (["run", "03", "-p", "places={here: {engine: bm52}}"], "place 'here': unknown engine 'bm52'; allowed: bm25, "),
    (["run", "03", "-p", "places={here: {engin: bm25}}"], "place 'here': profile 'laptop': unknown field 'engin'"),
    (["run", "03", "-p", "reward_sets=[correctness, correctness]"], "want two or more, each once"),
    (["run", "03", "-p", "reward_sets=[recovery, correctness]"], "compare the first with recovery; want another one"),
    (["run", "03", "-p", "places={a/b: {engine: bm25}}"], "places: 'a/b'; want letters, digits"),
    (["run", "03", "-p", "places={dense: {k: 1}}"], "places: 'dense' is the name of a check; want another name"),
    (["run", "03", "-p", "retry_shares=[0.1, 1.1]"], "03_reward_ablations: 1.1 is no share of the misses; want 0 to 1"),
    (["run", "03", "-p", "check_shares=[0.2]"], "check_shares, forked_start: 0.2 is none of retry_shares, [0.0, 0.1"),
    (["run", "03", "-p", "forked_start=0.2"], "check_shares, forked_start: 0.2 is none of retry_shares, [0.0, 0.1"),
    (["run", "03", "-p", "seeds=[]"], "retry_shares, seeds or reward_sets is empty; want at least"),
    (["run", "05", "-p", "collapses={a: {engine: bm52}}"], "05_collapse: 'a': unknown engine 'bm52'"),
    (["train", "--profile", "labtop", "--run-dir", "x"], "unknown profile 'labtop'; allowed: "),
    (["train", "--run-dir", "x", "-p", "policy=data/polcy"], "no policy in "),
    (["warm-start", "--run-dir", "x", "-p", "reward_set=bribes"], "unknown reward set 'bribes'; allowed: "),
    (["ask", "--profile", "labtop", "q"], "unknown profile 'labtop'; allowed: "),
    (["ask", "--policy", "data/polcy", "q"], "no policy in "),
    (["ask", "--engine", "bm52", "q"], "unknown engine 'bm52'; allowed: "),
    (["ask", "--corpus", "data/nowhere", "q"], "no corpus at "),
    (["run", "02", "-p", "overrides={engine: faulty, engine_options: {emty: 1}}"], "unknown option 'emty' for engine"),
    (["ask", "--engine", "bm25", "--options", "{k2: 1}", "q"], "unknown option 'k2' for engine 'bm25'; allowed: "),
    (["serve", "--engine", "bm52"], "unknown engine 'bm52'; allowed: "),
    (["reward-lab", "--engine", "bm25", "bm52"], "unknown engine 'bm52'; allowed: "),
    (["reward-lab", "--weights", "{bribe: 1}"], "unknown reward 'bribe'; allowed: "),
    (["data", "cloze", "data/nowhere", "--out", "x"], "nowhere: holds no corpus; want one of "),
    (["data", "cloze", "data/larkspur", "--out", "data/larkspur"], "data/larkspur: holds the questions that are split"),
    (["run", "--resume", "--run-id", "reference"], f"{KEPT}: only tests/tools/keep_"),
    (["run", "02", "--runs-dir", "papermill_runs/reference", "--run-id", "x"], f"{KEPT}/x: only tests/tools/keep_"),
    (["train", "--run-dir", "data/../papermill_runs/reference/"], "/reference: only tests/tools/keep_"),
    (["data", "split", "data/larkspur", "--out", "papermill_runs/reference"], f"{KEPT}: only tests/tools/keep_"),
]
ALL_IN_ONE = """
import json, resource, sys
from rezero.__main__ import main
statuses = [main(command) for command in json.loads(sys.argv[1])]
used = resource.getrusage(resource.RUSAGE_SELF)
slow = sorted({"torch", "papermill", "nbformat"} & set(sys.modules))
print(json.dumps([statuses, used.ru_utime + used.ru_stime, slow]))
"""


@pytest.fixture(scope="module")
def refused():
    """All wrong commands in one process: (statuses, CPU seconds, slow packages that were imported), lines on stderr."""
    command = [sys.executable, "-c", ALL_IN_ONE, json.dumps([command for command, _ in WRONG])]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr.splitlines()


@pytest.mark.parametrize("number", range(len(WRONG)), ids=[" ".join(command) for command, _ in WRONG])
def test_a_wrong_name_is_refused_in_one_line(refused, number):
    (statuses, _, _), lines = refused
    assert len(lines) == len(statuses) == len(WRONG)
    assert statuses[number] == 2
    assert lines[number].startswith("error: ") and WRONG[number][1] in lines[number]


def test_nothing_slow_is_imported_for_a_refusal(refused):
    (_, seconds, slow), _ = refused
    assert slow == []
    assert seconds < 6  # all of them together, on a loaded machine; one alone takes half a second


def test_what_exists_only_in_the_notebook_is_not_looked_for_outside():
    own = {"engine": "__main__:mine", "reward_weights": {"__main__:brevity": 1.0}}
    check_notebooks({"02_train_grpo": {"profile": "laptop", "overrides": own}})


@pytest.mark.parametrize("file", ["notebooks/quick.yaml", "tests/smoke.yaml"])
def test_the_parameters_that_we_ship_pass(file, monkeypatch):
    from rezero.runner.parameters import choose_parameters, read_params_file
    from rezero.runner.run import find_notebooks

    seen = []
    monkeypatch.setattr(check, "check_config", lambda config, real=check.check_config: seen.append(real(config)))
    paths = {path.stem: read_parameters(path) for path in find_notebooks(["all"], NOTEBOOKS)}
    check_notebooks(choose_parameters(paths, {file: read_params_file(file)}, list(paths)))
    assert len(seen) >= 7  # of notebooks, arms, places and collapses


@pytest.mark.parametrize(("command", "said"), [
    (["warm-start", "--run-dir", "papermill_runs/reference/smollm"], "/smollm: only tests/tools/keep_reference.py"),
    (["reward-lab", "--out", "papermill_runs/reference"], "/reference: only tests/tools/keep_reference.py changes the"),
    (["data", "import", "README.md", "--name", "../papermill_runs/reference"], "/reference: only tests/tools/keep_"),
    (["data", "noise", "data/larkspur"], "data/larkspur/noise.jsonl exists; delete it to make another"),
])  # fmt: skip
def test_no_command_overwrites_what_is_not_its_own(command, said, capsys):
    folders = (KEPT, ROOT / "data" / "larkspur")
    found = [path for folder in folders for path in folder.rglob("*") if path.suffix != ".pyc"]
    before = [path.stat().st_mtime_ns for path in found]
    assert main(command) == 2
    assert said in capsys.readouterr().err
    assert found == [path for folder in folders for path in folder.rglob("*") if path.suffix != ".pyc"]
    assert before == [path.stat().st_mtime_ns for path in found]
