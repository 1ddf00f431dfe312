"""Execute one notebook with papermill, in a kernel whose interpreter and environment are known and recorded."""

import logging
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import nbformat
import papermill
import psutil
from ipykernel.kernelspec import get_kernel_dict
from jupyter_client import AsyncKernelManager, kernelspec
from nbclient.exceptions import DeadKernelError
from nbformat.v4 import new_output
from papermill import engines
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine, papermill_engines

from rezero.files import ROOT, shown
from rezero.runner.machine import MARK, kernel_environment

DIED = "the kernel was killed, often for lack of memory, or it crashed"
KERNEL_ARGUMENTS = [
    "--IPKernelApp.log_level=CRITICAL",  # a kernel logs the interrupt that stops it as an error
    f"--IPKernelApp.exec_lines=__import__('sys').path.insert(0, {str(ROOT)!r})",  # PYTHONPATH takes no path with ":"
    # Without ipywidgets tqdm.auto prints text, whose last state is saved; a saved widget would stay at 0/50.
    '--IPKernelApp.exec_lines=__import__("sys").modules["ipywidgets"] = None',
]


def end_leftovers(run_dir: Path) -> None:
    """End the kernel that a killed runner left behind, and whatever the kernel started: they may still write."""
    left = True
    while left:  # until none is found, because a process may start another one before it is ended
        running = psutil.process_iter(["environ"], ad_value={})  # {} where we may not look: that is none of ours
        left = [one for one in running if one.info["environ"].get(MARK) == str(run_dir.resolve())]
        for process in left:
            print(f"ending process {process.pid}, which a killed run left behind", flush=True)
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=1)


class Client(PapermillNotebookClient):
    """papermill's client, except that no cell runs in a kernel whose `rezero` is not this one: it would write there."""

    def papermill_execute_cells(self) -> None:
        request = self.kc.execute("", silent=True, user_expressions={"rezero": "__import__('rezero').__path__[0]"})
        found = self.wait_for_reply(request)["content"]["user_expressions"]["rezero"]
        said = found.get("evalue") or found["data"]["text/plain"]
        if said != repr(str(ROOT / "rezero")):
            raise RuntimeError(f"the kernel's rezero is not that of the runner, {ROOT / 'rezero'}: {said}")
        super().papermill_execute_cells()


engines.PapermillNotebookClient = Client


class Engine(NBClientEngine):
    """papermill's engine, except that a dead kernel, an interrupt and sys.exit(0) fail the cell that was running.

    papermill calls a cell whose kernel died, and all cells after it, completed, and takes sys.exit(0) for success.
    """

    @classmethod
    def execute_managed_notebook(cls, manager, kernel_name, **options) -> None:
        record, cells = manager.nb.metadata.papermill, [cell for cell in manager.nb.cells if cell.cell_type == "code"]
        for key in ("input_path", "output_path"):  # which must not name somebody's machine
            record[key] = shown(Path(record[key]))
        try:
            super().execute_managed_notebook(manager, kernel_name, **options)
        except (Exception, KeyboardInterrupt) as error:
            started = [cell for cell in cells if cell.metadata.papermill["start_time"]]
            failed = started[-1] if started else cells[0]
            said = DIED if isinstance(error, DeadKernelError) else str(error)
            said = said if started else f"before the first cell: {said}"
            failed.outputs.append(new_output("error", ename=type(error).__name__, evalue=said, traceback=[said]))
            manager.cell_exception(failed)
        for output in [output for cell in cells for output in cell.outputs]:
            if output.get("ename") == "SystemExit":
                output.evalue = "the cell called sys.exit(); no cell after it ran"


papermill_engines.register("rezero", Engine)


def execute(notebook: Path, copy: Path, parameters: dict) -> str:
    """Execute `notebook` in its folder into `copy`, which lies in a run's folder; returns what went wrong, or ""."""
    logging.getLogger("papermill").setLevel(logging.CRITICAL)  # it warns of parameters that we have checked
    env = kernel_environment(copy.parent)
    numbers = {cell.source: n for n, cell in enumerate(nbformat.read(notebook, as_version=4).cells, start=1)}
    source, target = (str(path).replace("{", "{{").replace("}", "}}") for path in (notebook, copy))  # for str.format
    options = {"kernel_name": "python3", "language": "python", "start_timeout": 180, "iopub_timeout": 60}
    options |= {"stdout_file": sys.stdout, "stderr_file": sys.stderr, "coalesce_streams": True, "progress_bar": False}
    options |= {"force_raise_errors": True, "cwd": notebook.parent}
    try:
        with tempfile.TemporaryDirectory(prefix="rezero-ipython-", ignore_cleanup_errors=True) as empty:
            env["IPYTHONDIR"] = empty  # no start-up files of the user
            # The running interpreter. What the machine calls `python3` may be another: a spec in the user's home wins.
            env = {name: value.replace("$", "$$") for name, value in env.items()}  # jupyter_client expands $NAME
            spec = kernelspec.KernelSpec(**get_kernel_dict(KERNEL_ARGUMENTS), env=env)
            options["kernel_manager_class"] = type("OwnKernel", (AsyncKernelManager,), {"kernel_spec": spec})
            papermill.execute_notebook(source, target, parameters, "rezero", **options)
    except papermill.PapermillExecutionError as error:
        number = numbers.get(error.source, "of parameters")
        return f"cell {number} (In [{error.exec_count or ' '}]): {error.ename}: {error.evalue}"
    except (Exception, KeyboardInterrupt) as error:  # not in a cell: the copy could not be written, as on a full disk
        copy.unlink(missing_ok=True)
        return f"{shown(copy)} was not written: {type(error).__name__}: {error}"
    return ""
