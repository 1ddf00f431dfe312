"""Run the jobs of a sweep in forks of one process that has imported what their notebook imports.

`sweep.side_by_side` starts `main` in a process of its own and writes a line of JSON to it: the imports, the jobs, and
how many run at once. The answer is a line per job that has ended. When its standard input ends, because the sweep was
interrupted or killed, it ends itself and all jobs.
"""

import gc
import json
import os
import signal
import sys
import traceback
from contextlib import suppress
from multiprocessing import connection, get_context
from pathlib import Path

from ipykernel.kernelapp import IPKernelApp
from jupyter_client.provisioning import local_provisioner

from rezero.runner.kernel import execute  # noqa: F401 (imported once, for all jobs)
from rezero.runner.sweep import run_job

FORK = get_context("fork")


class ForkedKernel:
    """A kernel that waits in a fork of this process until it is launched; for jupyter_client it is a `Popen`."""

    stdin = stdout = stderr = None

    def __init__(self):
        receiver, self.sender = FORK.Pipe(duplex=False)
        self.process = FORK.Process(target=self.serve, args=(receiver, os.getpid()), daemon=True)
        self.process.start()
        self.pid, self.kill, self.terminate = self.process.pid, self.process.kill, self.process.terminate
        os.setpgid(self.pid, self.pid)  # jupyter_client signals the whole group

    def serve(self, receiver, parent: int) -> None:
        self.sender.close()  # so that the end of the other process ends this one, too
        command, env, cwd = receiver.recv()
        os.environ.clear()
        os.environ.update(env)
        os.chdir(cwd)
        arguments = command[command.index("ipykernel_launcher") + 1 :]
        IPKernelApp.launch_instance(argv=[*arguments, f"--IPKernelApp.parent_handle={parent}"])

    def launch(self, command: list[str], env: dict[str, str], **_) -> "ForkedKernel":
        self.sender.send((command, env, os.getcwd()))
        return self

    def poll(self) -> int | None:
        return self.process.exitcode

    def wait(self) -> int | None:
        self.process.join()
        return self.process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)


def work(call: dict) -> None:
    """One job, in a process of its own. Its kernel is forked first, while the process has no threads."""
    local_provisioner.launch_kernel = ForkedKernel().launch
    try:
        run_job(call)
    except Exception:
        run_dir = Path(call["runs"]) / call["run_id"]
        with run_dir.with_name(f"{run_dir.name}.log").open("a") as log:
            traceback.print_exc(file=log)
        sys.exit(1)


def main() -> None:
    plan = json.loads(sys.stdin.readline())
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever prints does not answer
    for statement in plan["imports"]:
        with suppress(Exception):  # it will fail once more in the notebook, which records that
            exec(statement, {})
    gc.freeze()  # so that the forks share what was imported
    waiting, running = list(plan["calls"].items()), {}
    while waiting or running:
        while waiting and len(running) < plan["workers"]:
            name, call = waiting.pop(0)
            process = FORK.Process(target=work, args=(call,))
            process.start()
            running[process.sentinel] = name, process
        for ready in connection.wait([*running, 0]):
            if not ready:
                os.killpg(0, signal.SIGKILL)
            name, process = running.pop(ready)
            process.join()
            print(json.dumps([name, process.exitcode]), file=answers, flush=True)
