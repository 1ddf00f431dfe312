"""Install the project on Colab. The first cell of every notebook fetches this file there and executes it.

Colab's own packages stay as they are, because its kernel runs on them. The project's packages lie in a folder of
their own, which Python searches first.
"""

import os
import subprocess
import sys

root, site = "/content/rezero", "/content/rezero-packages"
if not os.path.isdir(site):
    extra = "gpu" if os.path.exists("/dev/nvidia0") else "cpu"
    print(f"Installing rezero[{extra}], which takes a few minutes.")
    clone = f"test -d {root} || git clone -q https://github.com/OWNER/rezero {root}"
    install = f"pip install -qU -t {site}.new '{root}[{extra}]' && mv {site}.new {site}"  # never half a folder
    for command in (clone, install):
        done = subprocess.run(command, shell=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if done.returncode:
            raise RuntimeError(f"The installation failed; run this cell again.\n{command}\n{done.stdout}")
if site not in sys.path:
    if "torch" in sys.modules:
        raise RuntimeError("Colab's own torch is loaded: restart the session, then run this cell first.")
    sys.path[:0] = [root, site]
    google = sys.modules["google"]  # a namespace package: protobuf, which lies in it, must be the project's as well
    google.__path__ = [f"{site}/google", *google.__path__]
    os.environ["PYTHONPATH"] = f"{root}:{site}"  # of the kernels that notebook 03 starts
