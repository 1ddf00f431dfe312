"""The project itself: pins in one place, documents whose commands and links exist, nothing that is pickled."""

import re
import subprocess
import tomllib

import pytest
import yaml

from rezero.__main__ import CALLS
from rezero.files import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = PROJECT["project"]["optional-dependencies"]
REQUIREMENTS = PROJECT["project"]["dependencies"] + [item for extra in EXTRAS.values() for item in extra]
DOCUMENTS = ["README.md", "environment.yml", "Makefile"]
DOCUMENTS += [f"{folder}/README.md" for folder in ("rezero", "notebooks", "data", "papermill_runs", "tests")]
PICKLED = {".pkl", ".pickle", ".joblib", ".pt", ".pth", ".bin", ".ckpt"}


def tracked():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")  # an unpacked archive
    return [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


def names_of(requirements) -> set[str]:
    return {re.split(r"[=<>\[]", item)[0].lower() for item in requirements}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_documents_pin_and_install_what_pyproject_does(name):
    text = (ROOT / name).read_text()
    assert set(re.findall(r"[\w.-]+(?:\[[\w,]+\])?==[\w.]+[\w]", text)) <= set(REQUIREMENTS)
    for command in re.findall(r"pip install ([^`\n|&;#]+)", text):
        words = [word.strip("\"'") for word in command.split()]
        packages = names_of(word for word in words if word[0] not in "-./$")
        assert packages <= names_of(REQUIREMENTS) | {"rezero"}, f"pip install {command}"
    for extras in re.findall(r"(?:-e|install) *[\"']?\.\[([\w,]+)\]", text):
        assert set(extras.split(",")) <= set(EXTRAS)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_what_documents_name_exists(name):
    text = (ROOT / name).read_text()
    for module in re.findall(r"python -m (rezero\.[\w.]+|data\.[\w.]+)", text):
        assert (ROOT / f"{module.replace('.', '/')}.py").is_file(), module
    for path in re.findall(r"(?<!rezero/)\b((?:tests|data)/[\w/]+\.(?:py|yaml))", text):
        assert (ROOT / path).is_file(), path
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (ROOT / name).parent.joinpath(link).exists(), link
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    code = "\n".join(re.findall(r"`[^`\n]+`|```.*?```", text, re.DOTALL))
    assert set(re.findall(r"\bmake ([a-z]+)\b", code)) <= targets


def test_commands_in_documents_exist():
    for path in tracked():
        if path.suffix in {".md", ".yml"} or path.name == "Makefile":
            named = set(re.findall(r"python -m rezero (data [a-z-]+|[a-z][a-z-]+)", path.read_text()))
            assert "reference" in path.parts or named <= CALLS.keys(), f"{path}: no command {named - CALLS.keys()}"


def test_dependencies_are_pinned_in_pyproject_alone():
    packages = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert packages == ["python=3.11", "pip", {"pip": ["-e .[cpu,dev]"]}]
    # What produces numbers is pinned exactly; development tools need not be.
    assert all("==" in item for item in PROJECT["project"]["dependencies"] + EXTRAS["cpu"] + EXTRAS["gpu"])
    assert [{"extra": "cpu"}, {"extra": "gpu"}] in PROJECT["tool"]["uv"]["conflicts"]
    assert "faiss-cpu" in names_of(EXTRAS["cpu"]) - names_of(EXTRAS["gpu"])
    assert "faiss-gpu" in names_of(EXTRAS["gpu"]) - names_of(EXTRAS["cpu"])


def test_nothing_is_pickled():
    """Loading a pickle can run code: none is tracked, by its name or its first bytes, and the package reads none."""
    files = tracked()
    assert [path for path in files if path.suffix in PICKLED or re.match(rb"\x80[\x02-\x05]", path.read_bytes())] == []
    code = {path: path.read_text() for path in files if path.suffix == ".py" and "rezero" in path.parts}
    assert [path for path, text in code.items() if re.search(r"\bpickle\b|joblib|torch\.(save|load)\(", text)] == []


def test_the_readme_stays_short():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 200 and len(text.split()) <= 1500
