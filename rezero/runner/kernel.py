"""Where a run happens: put into words for its record, and made the same for every kernel."""

import importlib.metadata
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from rezero.files import ROOT, write_text

# tqdm.auto and its like draw widgets where they can, and a saved widget stays frozen at 0/50. Without the module
# they print text, of which coalesce_streams keeps the last state.
# The kernel's own log only alarms: the interrupt with which every kernel is stopped is an "ERROR" in it.
KERNEL_ARGUMENTS = [
    "--IPKernelApp.log_level=CRITICAL",
    '--IPKernelApp.exec_lines=__import__("sys").modules["ipywidgets"] = None',
]


def output_of(*command: str) -> str:
    """What a command prints, run in the project's root; "" if it is missing or fails."""
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def describe() -> str:
    """Where a run happened: time, Python, platform, CPUs, GPU, git revision, installed packages."""
    revision = output_of("git", "rev-parse", "HEAD") or "none"
    dirty = " (with uncommitted changes)" if output_of("git", "status", "--porcelain") else ""
    gpu = output_of("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader") or "none"
    packages = sorted({f"{d.name}=={d.version}" for d in importlib.metadata.distributions()}, key=str.lower)
    machine = f"{platform.system()} {platform.machine()}"
    head = [f"time: {now()}", f"python: {platform.python_version()}", f"platform: {machine}",
            f"cpus: {cpu_share()}", f"gpu: {gpu}", f"git: {revision}{dirty}", ""]  # fmt: skip
    return "\n".join([*head, *packages, ""])


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def cpu_share() -> int:
    """The CPUs this process may use. A container's quota counts: threads beyond it only wait for each other."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(cpus, int(quota) // int(period)))
    except (OSError, ValueError):  # no cgroup v2, or "max": no quota
        return cpus


@contextmanager
def this_kernel() -> Iterator[str]:
    """Yield the name of a kernel that is the running interpreter, in an environment of known content.

    The name `python3` may mean another interpreter: a spec under the user's home or in JUPYTER_PATH wins over
    the environment's own. So we write a spec that names sys.executable, in a folder put first in JUPYTER_PATH.

    Raises:
        ValueError: the interpreter has no ipykernel.
    """
    if not importlib.util.find_spec("ipykernel"):
        raise ValueError(f"no Jupyter kernel: {sys.executable} has no ipykernel; make run installs the project, "
                         'or do it yourself: pip install -e ".[cpu]"')  # fmt: skip
    from ipykernel.kernelspec import get_kernel_dict

    inherited, paths = os.environ.get("JUPYTER_PATH"), os.environ.get("PYTHONPATH")
    with tempfile.TemporaryDirectory(prefix="rezero-kernel-") as folder:
        env = {
            "PYTHONUNBUFFERED": "1",
            "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), paths])),  # this clone's rezero, no other's
            "PYTHONWARNINGS": "ignore:IProgress not found",  # tqdm.auto without widgets, as we want it
            "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # a warning of the debugger, which headless nobody uses
            "MPLBACKEND": "module://matplotlib_inline.backend_inline",  # an inherited Agg would drop the figures
            "IPYTHONDIR": folder,  # nobody's start-up files, no history
            "TOKENIZERS_PARALLELISM": os.environ.get("TOKENIZERS_PARALLELISM", "false"),  # forks warn otherwise
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(cpu_share())),
        }
        spec = Path(folder, "kernels", "rezero", "kernel.json")
        write_text(spec, json.dumps(get_kernel_dict(KERNEL_ARGUMENTS) | {"env": env}))
        os.environ["JUPYTER_PATH"] = os.pathsep.join(filter(None, [folder, inherited]))
        try:
            yield "rezero"
        finally:
            os.environ.pop("JUPYTER_PATH")
            if inherited is not None:
                os.environ["JUPYTER_PATH"] = inherited
