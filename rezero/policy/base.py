"""A policy: a causal language model, its tokenizer, and what its chat template writes between turns.

All ways to generate share one interface that keeps state over turns: `Policy.start` takes the prompts; then `generate`
(the next turn of every row) and `extend` (keep some rows, append the environment's ids) alternate. Token ids in, token
ids out: nothing that was sampled is ever decoded and tokenized again.
"""

import errno
import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from pkgutil import resolve_name

import torch
from safetensors import SafetensorError, safe_open
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from rezero.files import digest, resolve
from rezero.policy.sampling import Generation, check_cache, takes_masks
from rezero.policy.template import Template
from rezero.protocol import Sampling, closes_turn, wrap_information
from rezero.questions import Question
from rezero.search.base import Engine


@dataclass
class Policy:
    """A causal language model and a tokenizer with a chat template and a pad token that never ends a turn."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    backend: Callable | None = field(default=None, repr=False)  # what generates in place of `sampling.Generation`
    template: Template = field(init=False, repr=False)
    end_of_turn: int = field(init=False)

    def __post_init__(self) -> None:
        check_cache(self.model)
        self.template = Template(self.tokenizer)
        self.end_of_turn = self.template.end
        if self.tokenizer.pad_token_id in (None, self.end_of_turn):
            name, pad = self.tokenizer.name_or_path, self.tokenizer.pad_token
            raise ValueError(f"{name}: the pad token is {pad!r}; want one that never ends a turn, for the loss masks")
        # A base's own settings (repetition_penalty, num_beams) would change `generate`, and invalid ones stop saving.
        ends = dict(eos_token_id=self.end_of_turn, pad_token_id=self.tokenizer.pad_token_id)
        for model in (self.model, getattr(self.model, "get_base_model", lambda: None)()):
            if hasattr(model, "generation_config"):
                model.generation_config = GenerationConfig(**ends)

    def encode(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def decode(self, ids: list[int] | tuple[int, ...]) -> str:
        """The text of these ids without special tokens; our tags stay even if they are special tokens."""
        return self.tokenizer.decode([number for number in ids if number not in self.template.silent])

    def prompt_ids(self, messages: list[dict]) -> list[int]:
        """The ids of chat messages, up to where the assistant's first turn begins."""
        return self.encode(self.template.prompt(messages))

    def information_ids(self, information: str, turn_ids: list[int]) -> list[int]:
        """The ids after `turn_ids`: end of turn (unless it was sampled), retrieved text, head of the next turn."""
        told = wrap_information(self.template.inert(information))
        ids = self.encode(self.template.between + told + self.template.after)
        return ids[ids.index(self.end_of_turn) + 1 :] if turn_ids and turn_ids[-1] == self.end_of_turn else ids

    def ends_turn(self, ids: list[int]) -> bool:
        """Whether the last of these sampled ids ends the turn: it is the end of turn, or it closes an action."""
        if ids[-1] == self.end_of_turn:
            return True
        piece = self.tokenizer.convert_ids_to_tokens(ids[-1])  # None for ids beyond the vocabulary
        return bool(piece) and ">" in piece and closes_turn(self.decode(ids))

    def start(self, prompts: list[list[int]], temperature: float, generator: torch.Generator | None = None):
        """Start generating from `prompts`. Temperature 0 is greedy; no generator: torch's global one draws."""
        kind = self.backend or Generation
        if not self.backend and self.model.device.type == "cuda" and takes_masks(self.model):
            kind = resolve_name("rezero.extras.slots:SlotGeneration")
        return kind(self, prompts, temperature, generator)


def save_policy(policy: Policy, path: str | Path) -> Path:
    """Write model or adapter (safetensors) and tokenizer to a folder that `load_policy` reads; else OSError."""
    folder = resolve(path)
    # TRL keeps a second adapter, "ref", for the KL term. To decide about embeddings itself, PEFT would ask the hub.
    only = dict(selected_adapters=["default"], save_embedding_layers=False)
    adapts = hasattr(policy.model, "peft_config")
    try:
        policy.model.save_pretrained(folder, **(only if adapts else {}))
        policy.tokenizer.save_pretrained(folder)
    except (OSError, SafetensorError) as error:
        weights = policy.model.parameters()
        raise not_written(folder, error, bytes_of(w for w in weights if w.requires_grad or not adapts)) from error
    same_modes(folder)
    return folder


def bytes_of(weights: Iterable[torch.Tensor]) -> int:
    return sum(weight.numel() * weight.element_size() for weight in weights)


def same_modes(folder: Path) -> None:
    """Let whoever may read the JSON files of `folder` read its weights: safetensors writes files for the owner only."""
    for path in folder.rglob("*.safetensors"):
        shutil.copymode(next(path.parent.glob("*.json")), path)


def not_written(path: Path, error: Exception, needed: int) -> OSError:
    """The error of saving `path`, about `needed` bytes: with what was needed and free if the disk is full."""
    free = shutil.disk_usage(path.parent).free
    said = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)
    if said or ("inline_container" in str(error) and free < needed):  # torch does not say why it could not write
        why = f"the disk is full: about {needed / 2**20:.1f} MiB are needed and {free / 2**20:.1f} MiB are free"
    else:
        why = one_line(error) or type(error).__name__
    return OSError(f"{path} could not be written whole: {why}")


@contextmanager
def naming_damage(folder: Path) -> Iterator[None]:
    """Turn an error while the files of a model's folder are read into a ValueError of one line with the file's name."""
    try:
        yield
    except (ImportError, MemoryError, torch.cuda.OutOfMemoryError):
        raise
    except Exception as error:
        for path in sorted((*folder.glob("*.json"), *folder.glob("*.safetensors"))):
            try:
                if path.suffix == ".safetensors":
                    safe_open(path, "pt")
                elif not isinstance(json.loads(path.read_text("utf-8")), dict):
                    raise ValueError("want a JSON object")
            except Exception as damage:
                raise ValueError(f"{path}: damaged: {one_line(damage)}") from error
        if isinstance(error, OSError) or not folder.is_dir():
            raise
        raise ValueError(f"{folder}: cannot be loaded: {type(error).__name__}: {one_line(error)}") from error


def one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def episodes_depend_on(policy: Policy, engine: Engine, questions: list[Question], sampling: Sampling) -> list | None:
    """The key for `files.cached` of what the policy does on these questions; None if more matters than can be told."""
    if policy.backend or not engine.key():
        return None
    weights = sorted(policy.model.state_dict().items())
    parts = [policy.tokenizer.chat_template, json.dumps(policy.tokenizer.get_vocab(), sort_keys=True)]
    for name, weight in weights:
        parts += [name, weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()]
    return [digest(*parts), engine.key(), questions, sampling]
