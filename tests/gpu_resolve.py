"""Whether pip can resolve the GPU requirements today: `python tests/gpu_resolve.py` prints versions, installs nothing.

Where the index gives no metadata apart, pip downloads all wheels to read theirs, several GB.
"""

import json
import platform
import subprocess
import sys
import tempfile
import tomllib
from datetime import date
from pathlib import Path

from rezero.files import ROOT

SHOWN = ("torch", "transformers", "trl", "unsloth", "unsloth_zoo", "vllm", "bitsandbytes", "faiss-gpu")


def requirements() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [*project["dependencies"], *project["optional-dependencies"]["gpu"]]


def resolve() -> dict[str, str]:
    """{package: version} of all that would be installed into an empty environment; exits with pip's status if none."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--only-binary=:all:"]
        failed = subprocess.run([*command, "--quiet", "--report", str(report), *requirements()]).returncode
        if failed:
            sys.exit(failed)
        rows = json.loads(report.read_text())["install"]
    return {row["metadata"]["name"]: row["metadata"]["version"] for row in rows}


if __name__ == "__main__":
    found = resolve()
    print(f"{date.today()}, Python {platform.python_version()}, {platform.system()} {platform.machine()}: "
          f"{len(found)} packages")  # fmt: skip
    print(", ".join(f"{name} {found[name]}" for name in SHOWN))
