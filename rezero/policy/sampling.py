"""Load a policy and generate with it.

One interface for every backend, stateful over turns so that a backend can keep its KV cache: `start` with the
prompts, then alternate `generate` (the next turn of the rows that go on) and `extend` (append the environment's
tokens). Token in, token out: nothing that was sampled is ever decoded and tokenized again.
"""

from collections.abc import Callable

import torch
from transformers import (
    DynamicCache,
    PreTrainedModel,
)
from transformers.cache_utils import DynamicLayer

from rezero.policy.fast_cpu import GrowingLayer


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
