"""Ask pip whether the GPU requirements can be resolved today: `python tests/tools/gpu_resolve.py`. Installs nothing.

Where the index serves no metadata of its own, pip downloads whole wheels to read theirs, several GB.
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
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return [*project["dependencies"], *project["optional-dependencies"]["gpu"]]


def resolve() -> dict[str, str]:
    """{package: version} of what would be installed into an empty environment; exits with pip's status if it fails."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--only-binary=:all:"]
        failed = subprocess.run([*command, "--quiet", "--report", str(report), *requirements()]).returncode
        if failed:
            sys.exit(failed)
        rows = json.loads(report.read_text("utf-8"))["install"]
    return {row["metadata"]["name"]: row["metadata"]["version"] for row in rows}


if __name__ == "__main__":
    found = resolve()
    where = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    print(f"{date.today()}, {where}: {len(found)} packages")
    print(", ".join(f"{name} {found[name]}" for name in SHOWN))
