"""A finished run as a model that others can load: merged weights, adapter, GGUF, a card; and, if asked, on the hub.

The exported folder is the model itself, for `load_policy`, transformers, vLLM and the hub alike. The adapter that was
merged into it is in adapter/. Nothing leaves this machine without `push` and HF_TOKEN.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import yaml
from huggingface_hub import HfApi, ModelCardData
from huggingface_hub.utils import validate_repo_id
from peft import PeftModel

from rezero.config import Config, parse_config
from rezero.evaluation.evaluate import LABELS
from rezero.files import read_jsonl, resolve, shown, write_text
from rezero.policy.base import Policy, save_policy
from rezero.policy.hub import load_base
from rezero.policy.load import load_policy
from rezero.protocol import PROMPTS
from rezero.rewards import reward_weights
from rezero.task import LEDGER

CARD = Path(__file__).with_name("model_card.md")
CONVERTER = "convert_hf_to_gguf.py"
MISSING = "not recorded"
NO_MODEL = shutil.ignore_patterns("README.md", "step.txt")  # files in best/ that are not part of the model
VERSIONS = ("time", "python", "platform", "gpu", "git", "torch", "transformers", "trl", "peft", "unsloth", "vllm")
TAGS = ["rezero", "grpo", "trl", "reinforcement-learning", "search", "retrieval"]


def export(run: str | Path, out: str | Path = "", gguf: bool = False, push: str = "") -> Path:
    """Write the best policy of `run` to the new folder `out` (default: export/ in the run's folder), which is returned.

    With `gguf` the model is also converted for llama.cpp; `push` is the "owner/name" of a repository on the hub.

    Raises:
        OSError: `out` exists, or there is no run, no base model or no llama.cpp; or, once `out` is written, no upload.
        ValueError: `push` is no repository's name, HF_TOKEN is missing, the run is damaged, or llama.cpp failed.
    """
    run = find_run(run)
    out = resolve(out) if out else run / "export"
    if out.exists():
        raise FileExistsError(f"{out} exists; choose another --out, or upload it as it is: hf upload OWNER/NAME {out}")
    converter = find_converter() if gguf else None
    hub = find_hub(push) if push else None
    config = parse_config(json.loads((run / "config.json").read_text("utf-8")), f"{run}/config.json")
    name = push or run.name
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as folder:
        new = Path(folder, out.name)
        write_model(run / "best", config.policy, new)
        shutil.copy(run / "config.json", new / "rezero.json")  # `ask` takes the prompt and the budgets from it
        write_text(new / "README.md", card(run, config, name))
        if converter:
            write_gguf(converter, new, new / f"{Path(name).name}-bf16.gguf")
        new.rename(out)
    if hub:
        upload(hub, out, push)
    return out


def find_run(path: str | Path) -> Path:
    """The folder of a training, with its config.json and best/: `path` itself, or the only such folder below it."""
    folder = resolve(path)
    places = [folder, *sorted(best.parent for best in folder.rglob("best"))]
    found = [place for place in places if (place / "config.json").is_file() and (place / "best").is_dir()]
    if not found or (found[0] != folder and len(found) > 1):
        has = f"it holds {len(found)}: {', '.join(map(shown, found))}" if found else "it holds none"
        raise FileNotFoundError(f"{folder}: want a run's folder, with config.json and best/, or one above it; {has}")
    return found[0]


def write_model(best: Path, base: str, new: Path) -> None:
    """The model of `best` in the folder `new`: merged, with the adapter beside it, or copied if there is no adapter.

    The adapter is merged into `base`, the model that the run names, because the adapter itself may record a 4-bit copy
    of it. Rounding can flip a near tie: of 64 greedy episodes of SmolLM2 on dev, 63 equalled the adapter's when both
    computed in float32. The adapter's own episodes in bfloat16 and in float32 agreed on 60.
    """
    if not (best / "adapter_config.json").is_file():
        load_policy(best)  # raises if this is not a model
        shutil.copytree(best, new, ignore=NO_MODEL)
        return
    model, tokenizer = load_base(base)
    model = PeftModel.from_pretrained(model, str(best)).merge_and_unload(safe_merge=True)  # adds in float32
    policy = Policy(model.to(torch.bfloat16), tokenizer)
    model.generation_config.update(eos_token_id=policy.end_of_turn, pad_token_id=tokenizer.pad_token_id)
    save_policy(policy, new)
    say_byte_level(new / "tokenizer.json")
    shutil.copytree(best, new / "adapter", ignore=NO_MODEL)


def say_byte_level(path: Path) -> None:
    """Correct what transformers saves for a byte-level tokenizer that it read from a GGUF, such as SmolLM2's.

    It saves that unknown characters fall back to bytes, as in sentencepiece. llama.cpp believes that and would write
    another vocabulary. Token ids and decoded text do not change.
    """
    tokenizer = json.loads(path.read_text("utf-8"))
    splitter, model = tokenizer["pre_tokenizer"] or {}, tokenizer["model"]
    if splitter.get("type") == "ByteLevel" and model.get("byte_fallback"):
        model["byte_fallback"] = False
        tokenizer["decoder"] = splitter
        write_text(path, json.dumps(tokenizer, ensure_ascii=False))


def find_converter() -> Path:
    """llama.cpp's converter: $LLAMA_CPP is its path or the folder that contains it; otherwise it is on PATH."""
    said = os.environ.get("LLAMA_CPP", "")
    place = Path(said or shutil.which(CONVERTER) or "").expanduser()
    place = place / CONVERTER if place.is_dir() else place
    if not place.is_file():
        wrong = f"LLAMA_CPP={said!r} is neither its path nor a clone of llama.cpp"
        raise FileNotFoundError(f"--gguf needs llama.cpp's {CONVERTER}: it is not on PATH, and {wrong}")
    return place


def write_gguf(converter: Path, folder: Path, target: Path) -> None:
    """Convert the model in `folder` to the file `target`; ValueError with the last line that the converter wrote."""
    command = [sys.executable, str(converter), str(folder), "--outfile", str(target), "--outtype", "bf16"]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    if done.returncode or not target.is_file():
        last = (done.stderr or done.stdout).strip().rpartition("\n")[2]
        raise ValueError(f"{converter} failed with exit status {done.returncode}: {last}")


def find_hub(push: str) -> HfApi:
    """The hub, with the environment's token, after checking that `push` can name a repository."""
    validate_repo_id(push)
    if "/" not in push or not os.environ.get("HF_TOKEN"):
        token = "in the environment variable HF_TOKEN a token that may write (https://huggingface.co/settings/tokens)"
        raise ValueError(f"--push {push!r}: want OWNER/NAME, and {token}; nothing was written")
    return HfApi(token=os.environ["HF_TOKEN"])


def upload(hub: HfApi, out: Path, push: str) -> None:
    """Upload the folder to `push`. A new repository is private, so that publishing remains a separate step."""
    try:
        hub.create_repo(push, private=True, exist_ok=True)
        hub.upload_folder(repo_id=push, folder_path=out, commit_message="Export of a ReZero run")
    except Exception as error:  # the hub's client raises errors of httpx, and others
        why = str(error).strip().partition("\n")[0]
        raise OSError(f"{out} is written, but not uploaded: {why}; again: hf upload {push} {out}") from error


def card(run: Path, config: Config, name: str) -> str:
    """The model card with its YAML front matter; it says "not recorded" where the run recorded nothing."""
    on_hub = not resolve(config.policy).is_dir()
    base = {"base_model": config.policy, "base_model_relation": "finetune"} if on_hub else {}
    weights = reward_weights(config.reward_set, config.reward_weights)
    metrics = run / "metrics.jsonl"
    rows = list(read_jsonl(metrics, appended=True)) if metrics.is_file() else []
    kept = read(run / "best" / "step.txt")
    system, user = PROMPTS[config.prompt_style]
    return CARD.read_text("utf-8").format(
        front=ModelCardData(**base, library_name="transformers", pipeline_tag="text-generation", tags=TAGS),
        name=name,
        config=config,
        system=system,
        user=user,
        test=read(run / "summary.txt") or MISSING,
        opened=len(read(run / LEDGER).splitlines()),
        dev=dev_results([row for row in rows if str(row["step"]) == kept]) or MISSING,
        weights=", ".join(f"{reward} {weight:g}" for reward, weight in weights.items()),
        kept=kept or MISSING,
        done=max((row["step"] for row in rows), default=0),
        versions=versions(run) or MISSING,
        parameters=yaml.safe_dump(config.to_dict(), sort_keys=False, allow_unicode=True).strip(),
    )


def dev_results(rows: list[dict]) -> str:
    """One line per metric that was measured on dev at one step, with its interval."""
    dev = next((row for row in rows if row["kind"] == "eval"), {})
    lines = []
    for name, label in LABELS.items():
        value = dev.get(name, float("nan"))
        if value == value:  # NaN: no such episode
            lines.append(f"{label:32}{value:.3f} [{dev[f'{name}_low']:.3f}, {dev[f'{name}_high']:.3f}]")
    return "\n".join(lines)


def versions(run: Path) -> str:
    """Where the run was last started, from its environment.txt; a sweep has one above the folders of its trainings."""
    texts = [read(folder / "environment.txt") for folder in (run, *run.parents[:2])]
    text = next(filter(None, texts), "")
    last = re.split(r"\n(?=time: )", text)[-1]  # the file has one section per start
    return "\n".join(line for line in last.splitlines() if re.split("==|: ", line)[0] in VERSIONS)


def read(path: Path) -> str:
    """The text of a file, "" if there is none."""
    return path.read_text("utf-8").rstrip() if path.is_file() else ""
