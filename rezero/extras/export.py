"""A finished run as a folder that transformers, vLLM and the hub read: merged weights, adapter, card, perhaps GGUF."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import yaml
from jinja2 import Template
from pandas import notna
from tokenizers import Tokenizer, decoders, pre_tokenizers

from rezero.config import Config, parse_config
from rezero.evaluation.evaluate import LABELS
from rezero.files import read_json, resolve, shown, writable, write_text
from rezero.policy.base import Policy, save_policy
from rezero.policy.hub import adapter_config
from rezero.policy.load import load_adapter, load_policy
from rezero.protocol import PROMPTS
from rezero.rewards import reward_weights
from rezero.task import LEDGER
from rezero.training.checkpoints import read_metrics

CARD = Path(__file__).with_name("model_card.md.j2")
CONVERTER = "convert_hf_to_gguf.py"
NO_MODEL = shutil.ignore_patterns("README.md", "step.txt")  # files in best/ that are not part of the model
VERSIONS = ("time", "python", "platform", "gpu", "git", "torch", "transformers", "trl", "peft", "unsloth", "vllm")


def export(run: str | Path, out: str | Path = "", gguf: bool = False) -> Path:
    """Write the best policy of `run` to the new folder `out` (default: export/ in the run's folder), which is returned.

    `gguf` converts the model for llama.cpp, too. Nothing leaves this machine.
    """
    run = find_run(run)
    out = writable(out or run / "export")
    if out.exists():
        raise FileExistsError(f"{out} exists; choose another --out, or delete it")
    converter = find_converter() if gguf else None
    config = parse_config(read_json(run / "config.json"), f"{run}/config.json")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as folder:
        new = Path(folder, out.name)
        write_model(run / "best", config.policy, new)
        shutil.copy(run / "config.json", new / "rezero.json")  # `ask` takes the prompt and the budgets from it
        write_text(new / "README.md", card(run, config))
        if converter:
            target = new / f"{run.name}-bf16.gguf"
            command = [sys.executable, str(converter), str(new), "--outfile", str(target), "--outtype", "bf16"]
            done = subprocess.run(command, capture_output=True, text=True, errors="replace")
            if done.returncode or not target.is_file():
                last = (done.stderr or done.stdout).strip().rpartition("\n")[2]
                raise ValueError(f"{converter} failed with exit status {done.returncode}: {last}")
        new.rename(out)
    return out


def find_run(path: str | Path) -> Path:
    """The folder of a training, with its config.json and best/: `path` itself, or the only one below it."""
    folder = resolve(path)
    places = [folder, *sorted(best.parent for best in folder.rglob("best"))]
    found = [place for place in places if (place / "config.json").is_file() and (place / "best").is_dir()]
    if not found or (found[0] != folder and len(found) > 1):
        has = f"it holds {len(found)}: {', '.join(map(shown, found))}" if found else "it holds none"
        raise FileNotFoundError(f"{folder}: want a run's folder, with config.json and best/, or one above it; {has}")
    return found[0]


def write_model(best: Path, base: str, new: Path) -> None:
    """The model of `best` in the folder `new`: merged, with the adapter beside it, or copied if there is no adapter.

    The adapter is merged into `base`, the model (or the adapter on it) that the run names, because the adapter may
    record a 4-bit copy. Rounding can flip a near tie: 63 of 64 greedy episodes of SmolLM2 equalled those in float32.
    """
    if not (best / "adapter_config.json").is_file():
        load_policy(best)  # raises if this is not a model
        shutil.copytree(best, new, ignore=NO_MODEL)
        return
    continued = adapter_config(resolve(base))
    policy = load_adapter(best, base=continued.base_model_name_or_path if continued else base)
    ends = [getattr(policy.model, f"get_{end}_embeddings")() for end in ("input", "output")]
    if any(hasattr(end, "base_layer") for end in ends):  # if they share their weight, only one of them is to change
        getattr(ends[1], "base_layer", ends[1]).weight = torch.nn.Parameter(ends[1].weight.clone())
    model = policy.model.merge_and_unload(safe_merge=True)  # adds in float32
    policy = Policy(model.to(torch.bfloat16), policy.tokenizer)
    mend_byte_level(policy.tokenizer.backend_tokenizer)
    save_policy(policy, new)
    shutil.copytree(best, new / "adapter", ignore=NO_MODEL)


def mend_byte_level(tokenizer: Tokenizer) -> None:
    """Undo the fallback to bytes that transformers adds to a byte-level tokenizer read from a GGUF, such as SmolLM2's.

    From it llama.cpp would write another vocabulary. Token ids and decoded text do not change.
    """
    if isinstance(tokenizer.pre_tokenizer, pre_tokenizers.ByteLevel) and getattr(tokenizer.model, "byte_fallback", 0):
        tokenizer.model.byte_fallback, tokenizer.decoder = False, decoders.ByteLevel()


def find_converter() -> Path:
    """llama.cpp's converter: $LLAMA_CPP is its path or the folder that contains it; otherwise it is on PATH."""
    said = os.environ.get("LLAMA_CPP", "")
    place = Path(said or shutil.which(CONVERTER) or "").expanduser()
    for path in filter(Path.is_file, (place, place / CONVERTER)):
        return path
    wrong = f"LLAMA_CPP={said!r} is neither its path nor a clone of llama.cpp"
    raise FileNotFoundError(f"--gguf needs llama.cpp's {CONVERTER}: it is not on PATH, and {wrong}")


def card(run: Path, config: Config) -> str:
    """The model card with its YAML front matter; it says "not recorded" where the run recorded nothing."""
    rows, kept = read_metrics(run), read(run / "best" / "step.txt")
    dev = next((row for row in rows if row["kind"] == "eval" and str(row["step"]) == kept), {})
    weights = reward_weights(config.reward_set, config.reward_weights)
    # A sweep has one environment.txt above the folders of its trainings. It has one section per start.
    texts = [read(folder / "environment.txt") for folder in (run, *run.parents[:2])]
    started = re.split(r"\n(?=time: )", next(filter(None, texts), ""))[-1].splitlines()
    template = Template(CARD.read_text("utf-8"), trim_blocks=True, keep_trailing_newline=True)
    return template.render(
        **dict(name=run.name, config=config, kept=kept, labels=LABELS, prompt=PROMPTS[config.prompt_style]),
        folder=resolve(config.policy).is_dir(),
        test=read(run / "summary.txt"),
        opened=len(read(run / LEDGER).splitlines()),
        dev={key: value for key, value in dev.items() if notna(value)},
        weights=", ".join(f"{reward} {weight:g}" for reward, weight in weights.items()),
        done=max((row["step"] for row in rows), default=0),
        versions="\n".join(line for line in started if re.split("==|: ", line)[0] in VERSIONS),
        parameters=yaml.safe_dump(config.to_dict(), sort_keys=False, allow_unicode=True).strip(),
    )


def read(path: Path) -> str:
    return path.read_text("utf-8").rstrip() if path.is_file() else ""
