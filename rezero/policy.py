"""Load a policy and generate with it.

One interface for every backend, stateful over turns so that a backend can keep its KV cache: `start` with the
prompts, then alternate `generate` (the next turn of the rows that go on) and `extend` (append the environment's
tokens). Token in, token out: nothing that was sampled is ever decoded and tokenized again.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    AutoModelForCausalLM,
    AutoTokenizer,
    DynamicCache,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.cache_utils import DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.utils.logging import disable_progress_bar

from rezero.files import resolve
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


def grouped_attention(module, query, key, value, attention_mask, scaling=None, **options):
    """The library's attention; for a single new token, without copying the cache to each query that shares a head.

    The queries of a group take the place of positions. On a CPU sampling with SmolLM2 takes half the time.
    Registered as "grouped", which `model.set_attn_implementation` takes.
    """
    rows, heads, length, width = query.shape
    if length > 1 or heads == key.shape[1]:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **options)
    folded = query.view(rows, key.shape[1], -1, width)
    out = scaled_dot_product_attention(folded, key, value, attn_mask=attention_mask, scale=scaling)
    return out.reshape(rows, 1, heads, width), None


AttentionInterface.register("grouped", grouped_attention)
AttentionMaskInterface.register("grouped", sdpa_mask)


class GrowingLayer(DynamicLayer):
    """A cache layer that appends into a buffer with room to spare, where the library's copies all of it every token."""

    def update(self, key_states, value_states, *args, **kwargs):
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = key_states[:, :, :0], value_states[:, :, :0]
        length, new = self.keys.shape[-2], key_states.shape[-2]
        room = getattr(self, "room", None)  # (keys, values); outdated as soon as rows were selected
        if room is None or room[0].data_ptr() != self.keys.data_ptr() or room[0].shape[-2] < length + new:
            shape = (*key_states.shape[:2], length + new + 64, key_states.shape[-1])
            self.room = room = (key_states.new_empty(shape), value_states.new_empty(shape))
            room[0][:, :, :length], room[1][:, :, :length] = self.keys, self.values
        room[0][:, :, length : length + new], room[1][:, :, length : length + new] = key_states, value_states
        self.keys, self.values = (part[:, :, : length + new] for part in room)
        return self.keys, self.values


class Generation:
    """Batched sampling over several turns with one KV cache (Hugging Face backend).

    Every chunk of ids that is fed is left-padded to the longest of the batch; padded slots stay in the cache, masked,
    and positions count real tokens only. Rows that are over leave the cache in `extend`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        prompts: list[list[int]],
        temperature: float,
        ends_turn: Callable[[list[int]], bool],
        pad: int,
        generator: torch.Generator | None = None,
    ):
        self.model, self.temperature, self.ends_turn, self.pad = model, temperature, ends_turn, pad
        self.generator, self.prompts = generator, prompts
        self.cache = DynamicCache(config=model.config)
        self.cache.layers = [GrowingLayer() if type(layer) is DynamicLayer else layer for layer in self.cache.layers]
        self.mask = torch.zeros(len(prompts), 0, dtype=torch.long, device=model.device)
        self._feed(prompts)

    @torch.no_grad()
    def generate(self, max_new_tokens: int) -> list[list[int]]:
        """One turn for every row: sampled ids up to and including the token that ends the turn."""
        turns: list[list[int]] = [[] for _ in range(len(self.mask))]
        open_rows = set(range(len(turns)))
        for _ in range(max_new_tokens):
            tokens = self._sample()
            fed: list[list[int]] = [[] for _ in turns]
            for row in list(open_rows):
                turns[row].append(tokens[row])
                fed[row] = [tokens[row]]
                if self.ends_turn(turns[row]):
                    open_rows.remove(row)
            if not open_rows:
                self._pending = fed  # not in the cache yet: `extend` feeds it together with the reply
                return turns
            self._feed(fed)
            self._pending = [[] for _ in turns]
        return turns

    @torch.no_grad()
    def extend(self, rows: list[int], ids: list[list[int]]) -> None:
        """Keep only `rows` (positions in the current batch) and append `ids`, one list a kept row."""
        index = torch.tensor(rows, device=self.mask.device)
        self.cache.batch_select_indices(index)
        self.mask, self.logits = self.mask[index], self.logits[index]
        self._feed([self._pending[row] + new for row, new in zip(rows, ids, strict=True)])

    def follows_adapter(self) -> bool:
        """Whether the model's adapter changes what comes next; to be asked before anything is generated."""
        with self.model.disable_adapter():
            bare = Generation(self.model, self.prompts, 0.0, self.ends_turn, self.pad)
        return not torch.equal(bare.logits, self.logits)

    def _feed(self, chunks: list[list[int]]) -> None:
        """Run `chunks` (one list of ids a row, possibly empty) through the model on top of the cache."""
        width = max(map(len, chunks))
        padded = [[self.pad] * (width - len(chunk)) + chunk for chunk in chunks]
        ids = torch.tensor(padded, device=self.model.device)
        new = torch.tensor([[0] * (width - len(c)) + [1] * len(c) for c in chunks], device=self.model.device)
        self.mask = torch.cat([self.mask, new], dim=1)
        positions = (self.mask.cumsum(1) - 1).clamp(min=0)[:, -width:]
        logits = self.model(
            input_ids=ids,
            attention_mask=self.mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        fresh = new[:, -1:].bool()  # a row that was fed nothing keeps its logits
        self.logits = logits if not hasattr(self, "logits") else torch.where(fresh, logits, self.logits)

    def _sample(self) -> list[int]:
        if self.temperature == 0:
            return self.logits.argmax(-1).tolist()
        shares = torch.softmax(self.logits.float() / self.temperature, dim=-1)
        return torch.multinomial(shares, 1, generator=self.generator)[:, 0].tolist()


def load_policy(path: str | Path) -> Policy:
    """A policy from a folder written by `save_policy`, or by its name on the Hugging Face hub ("owner/name").

    A folder with an adapter brings the model that the adapter was trained on, from `rezero.models`.

    Raises:
        FileNotFoundError: the folder holds no model, or the hub has none of this name.
    """
    from rezero import models  # it builds on this module, and a folder with a whole model does not need it

    folder = resolve(path)
    if (folder / "adapter_config.json").is_file():
        return Policy(*models.load_adapter(folder))
    if (folder / "config.json").is_file():
        disable_progress_bar()  # a bar for each of a hundred tiny loads would bury the training's own lines
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        return Policy(model.eval(), AutoTokenizer.from_pretrained(folder))
    if re.fullmatch(r"[\w.-]+/[\w.-]+", str(path)) and not folder.parent.is_dir():
        return Policy(*models.load_base(str(path)))
    raise FileNotFoundError(f"no policy in {folder}: config.json is missing; `make policy` trains the laptop's")


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
