"""The machine that notebooks run on, and the environment that their kernels get."""

import importlib.metadata
import os
import platform
import subprocess
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from rezero.files import ROOT

MARK = "REZERO_RUN_DIR"  # environment variable of a run's kernels, which every process that they start inherits


def describe_machine() -> str:
    """Time, Python, platform, CPUs, their load, GPU, git revision and every installed package, one per line."""
    gpu = output_of("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")
    revision = output_of("git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    packages = {f"{one.name}=={one.version}" for one in importlib.metadata.distributions()}
    system = f"{platform.python_version()} on {platform.system()} {platform.machine()}, {cpu_share()} CPUs"
    system += f", load {os.getloadavg()[0]:.1f} before" if hasattr(os, "getloadavg") else ""
    head = [f"time: {datetime.now(UTC):%Y-%m-%dT%H:%M:%S+00:00}", f"python: {system}"]
    head += [f"gpu: {gpu or 'none'}", f"git: {revision or 'none'}"]
    return "\n".join([*head, "", *sorted(packages, key=str.lower), "", ""])


def output_of(*command: str) -> str:
    """What a command prints when it runs in the project's root; "" if it is missing or fails."""
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=True)
        return done.stdout.strip()
    return ""


def cpu_share() -> int:
    """The number of CPUs this process may use. A container's quota counts: threads beyond it wait for each other."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):  # there is no cgroup v2, or the quota is "max"
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(cpus, int(quota) // int(period)))
    return cpus


def kernel_environment(run_dir: Path) -> dict[str, str]:
    """What a kernel of the run `run_dir` has in its environment besides what this process has."""
    return {
        MARK: str(run_dir.resolve()),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),  # this clone's rezero
        "PYTHONWARNINGS": "ignore:IProgress not found",  # tqdm.auto misses the widgets that we take from it
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # silences a warning of the debugger, which nobody uses here
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",  # an inherited Agg would drop the figures
        "TOKENIZERS_PARALLELISM": os.environ.get("TOKENIZERS_PARALLELISM", "false"),  # else forks warn
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(cpu_share())),
    }
