"""The project itself: pins in one place, commands that exist, nothing that runs code when it is loaded."""

import re
import subprocess
import tomllib
import zipfile

import pytest
import yaml

from rezero.files import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = PROJECT["project"]["optional-dependencies"]
DOCUMENTS = ["README.md", "environment.yml", "Makefile"]
DOCUMENTS += [f"{folder}/README.md" for folder in ("rezero", "notebooks", "data", "papermill_runs", "tests")]


def tracked():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")  # an unpacked archive
    return [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


def pins():
    requirements = PROJECT["project"]["dependencies"] + [item for extra in EXTRAS.values() for item in extra]
    return {item for item in requirements if "==" in item}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_documents_repeat_no_other_pin(name):
    found = set(re.findall(r"[\w.-]+(?:\[[\w,]+\])?==[\w.]+[\w]", (ROOT / name).read_text()))
    assert found <= pins(), f"{name} pins what pyproject.toml does not"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_documents_install_no_other_package(name):
    known = {re.split(r"[=<>\[]", item)[0].lower() for item in PROJECT["project"]["dependencies"]}
    known |= {re.split(r"[=<>\[]", item)[0].lower() for extra in EXTRAS.values() for item in extra}
    for command in re.findall(r"pip install ([^`\n|&;#]+)", (ROOT / name).read_text()):
        words = [word.strip("\"'") for word in command.split()]
        packages = {re.split(r"[=<>\[]", word)[0].lower() for word in words if word[0] not in "-./$"}
        assert packages <= known | {"rezero"}, f"{name}: pip install {command}"


def test_extras_named_in_documents_exist():
    for name in DOCUMENTS:
        for extras in re.findall(r"(?:-e|install) *[\"']?\.\[([\w,]+)\]", (ROOT / name).read_text()):
            assert set(extras.split(",")) <= set(EXTRAS), name


def test_environment_yml_leaves_packages_to_pyproject():
    packages = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert [item for item in packages if isinstance(item, str)] == ["python=3.11", "pip"]
    assert packages[2:] == [{"pip": ["-e .[cpu,dev]"]}]


def test_cpu_and_gpu_conflict():
    assert [{"extra": "cpu"}, {"extra": "gpu"}] in PROJECT["tool"]["uv"]["conflicts"]
    names = {extra: {re.split(r"[=<>\[]", item)[0] for item in EXTRAS[extra]} for extra in ("cpu", "gpu")}
    assert "faiss-cpu" in names["cpu"] - names["gpu"] and "faiss-gpu" in names["gpu"] - names["cpu"]


def test_every_runtime_pin_is_exact():
    # dev tools may float; what produces numbers may not
    for item in PROJECT["project"]["dependencies"] + EXTRAS["cpu"] + EXTRAS["gpu"]:
        assert "==" in item, item


def looks_pickled(path):
    """Whether loading the file could run code: a pickle by name or by its first and last bytes, or one in a zip."""
    if path.suffix in {".pkl", ".pickle", ".joblib", ".pt", ".pth", ".bin", ".ckpt"}:
        return True
    if zipfile.is_zipfile(path):  # torch's archives and npz
        with zipfile.ZipFile(path) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        return any(name.endswith(".pkl") or is_pickle(data) for name, data in members.items())
    return is_pickle(path.read_bytes())


def is_pickle(data):
    objects = data[:6] == b"\x93NUMPY" and b"'descr': '|O'" in data[:256]
    return objects or (re.match(rb"\x80[\x02-\x05]", data) is not None and data.endswith(b"."))


def test_pickles_are_recognised(tmp_path):
    import pickle

    import numpy as np

    for protocol in (2, 5):
        (tmp_path / "a.dat").write_bytes(pickle.dumps({"a": 1}, protocol))
        assert looks_pickled(tmp_path / "a.dat")
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object))
    np.savez_compressed(tmp_path / "objects.npz", a=np.array([{}], dtype=object))
    np.savez(tmp_path / "numbers.npz", a=np.arange(3))
    assert looks_pickled(tmp_path / "objects.npy") and looks_pickled(tmp_path / "objects.npz")
    assert not looks_pickled(tmp_path / "numbers.npz")


def test_nothing_tracked_is_pickled():
    assert [str(path) for path in tracked() if looks_pickled(path)] == []


def test_make_targets_in_documents_exist():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for name in [*DOCUMENTS, ".ci/run"]:
        text = (ROOT / name).read_text()
        code = text if name == ".ci/run" else "\n".join(re.findall(r"`[^`\n]+`|```.*?```", text, re.DOTALL))
        assert set(re.findall(r"\bmake ([a-z]+)\b", code)) <= targets, name


def test_commands_in_documents_exist():
    from rezero.__main__ import CALLS

    for path in [path for path in tracked() if path.suffix in {".md", ".yml"} or path.name == "Makefile"]:
        if "reference" not in path.parts:
            named = set(re.findall(r"python -m rezero ([a-z][a-z-]+)", path.read_text()))
            assert named <= CALLS.keys(), f"{path}: no command {named - CALLS.keys()}"


def test_modules_and_files_named_in_documents_exist():
    for name in DOCUMENTS:
        text = (ROOT / name).read_text()
        for module in re.findall(r"python -m (rezero\.[\w.]+|data\.[\w.]+)", text):
            assert (ROOT / f"{module.replace('.', '/')}.py").is_file(), f"{name}: {module}"
        for path in re.findall(r"python ((?:tests|data)/[\w/]+\.py)", text):
            assert (ROOT / path).is_file(), f"{name}: {path}"
        for link in re.findall(r"\]\((?!http)([^)#]+)\)", text):
            assert (ROOT / name).parent.joinpath(link).exists(), f"{name}: {link}"


def test_the_readme_stays_short():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 200 and len(text.split()) <= 1500
