"""Load a policy and generate with it.

One interface for every backend, stateful over turns so that a backend can keep its KV cache: `start` with the
prompts, then alternate `generate` (the next turn of the rows that go on) and `extend` (append the environment's
tokens). Token in, token out: nothing that was sampled is ever decoded and tokenized again.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from rezero.files import resolve
from rezero.policy.sampling import Generation
from rezero.protocol import closes_turn, wrap_information

_ASSISTANT, _USER = "xxASSISTANTxx", "xxUSERxx"  # stand-ins that find the template's text between two messages


@dataclass
class Policy:
    """A causal language model with its tokenizer and the token sequences its chat template puts between turns."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    backend: Callable | None = field(default=None, repr=False)  # (prompts, temperature, generator) -> a generation
    between: str = field(init=False, repr=False)  # from the end of an assistant turn to the user's text
    after: str = field(init=False, repr=False)  # from the end of the user's text to the next assistant turn
    end_of_turn: int = field(init=False)
    closing_tokens: frozenset[int] = field(init=False, repr=False)  # tokens that can end a tag

    def __post_init__(self) -> None:
        self.between, self.after = _template_seams(self.tokenizer)
        self.end_of_turn = self.encode(self.between)[0]
        if self.tokenizer.pad_token_id in (None, self.end_of_turn):
            raise ValueError(
                f"pad token {self.tokenizer.pad_token!r} must exist and differ from the end of turn "
                f"{self.tokenizer.convert_ids_to_tokens(self.end_of_turn)!r}: the loss mask is rebuilt from it"
            )
        pieces = self.tokenizer.convert_ids_to_tokens(list(range(len(self.tokenizer))))
        self.closing_tokens = frozenset(i for i, piece in enumerate(pieces) if piece and ">" in piece)

    def encode(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def decode(self, ids: list[int] | tuple[int, ...]) -> str:
        return self.tokenizer.decode(list(ids), skip_special_tokens=True)

    def prompt_ids(self, messages: list[dict]) -> list[int]:
        """Chat messages → ids that end where the assistant's first turn begins."""
        text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return self.encode(text)

    def information_ids(self, information: str, turn_ids: list[int]) -> list[int]:
        """Ids that follow `turn_ids`: end of turn (unless it was sampled), retrieved text, next turn's header."""
        ids = self.encode(self.between + wrap_information(information) + self.after)
        return ids[1:] if turn_ids and turn_ids[-1] == self.end_of_turn else ids

    def ends_turn(self, ids: list[int]) -> bool:
        """Whether the last of these sampled ids ends the turn: it is the end of turn or it closes an action."""
        if ids[-1] == self.end_of_turn:
            return True
        return ids[-1] in self.closing_tokens and closes_turn(self.decode(ids))

    def start(self, prompts: list[list[int]], temperature: float, generator: torch.Generator | None = None):
        """A generation over `prompts`; temperature 0 is greedy, `generator=None` draws from torch's global one."""
        if self.backend:
            return self.backend(prompts, temperature, generator)
        return Generation(self.model, prompts, temperature, self.ends_turn, self.tokenizer.pad_token_id, generator)


def save_policy(policy: Policy, path: str | Path) -> Path:
    """Write model or adapter (safetensors) and tokenizer to a folder that `load_policy` reads."""
    folder = resolve(path)
    if hasattr(policy.model, "peft_config"):  # "ref", TRL's copy for the KL term, stays out; "auto" would ask the hub
        policy.model.save_pretrained(folder, selected_adapters=["default"], save_embedding_layers=False)
    else:
        policy.model.save_pretrained(folder)
    policy.tokenizer.save_pretrained(folder)
    return folder


def _template_seams(tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
    """What the chat template writes between an assistant turn and the next user text, and after that text."""
    if not tokenizer.chat_template:
        raise ValueError(f"{tokenizer.name_or_path}: the tokenizer has no chat template; use an instruct model")
    messages = [
        {"role": "user", "content": "question"},
        {"role": "assistant", "content": _ASSISTANT},
        {"role": "user", "content": _USER},
    ]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    between, after = text.split(_ASSISTANT)[1].split(_USER)
    return between, after
