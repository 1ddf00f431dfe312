"""Batched sampling over the turns of an episode, with one KV cache."""

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from rezero.policy.fast_cpu import GrowingLayer


class Generation:
    """Sampling by a policy's own model; for the arguments see `Policy.start`.

    What the model reads at once is padded on the left to its longest row. Padded positions stay in the cache and are
    masked; positions count real tokens only. Rows whose episode is over leave the cache in `extend`.
    """

    def __init__(self, policy, prompts: list[list[int]], temperature: float, generator: torch.Generator | None = None):
        self.policy, self.model, self.temperature, self.generator = policy, policy.model, temperature, generator
        self.cache = DynamicCache(config=self.model.config)
        self.cache.layers = [GrowingLayer() if type(layer) is DynamicLayer else layer for layer in self.cache.layers]
        self.mask = torch.zeros(len(prompts), 0, dtype=torch.long, device=self.model.device)
        self.logits = None  # of each row's next token, shape (rows, vocabulary)
        self._read(prompts)

    def generate(self, max_new_tokens: int) -> list[list[int]]:
        """One turn per row: the sampled ids, up to and including the one that ends the turn."""
        turns: list[list[int]] = [[] for _ in range(len(self.mask))]
        open_rows = set(range(len(turns)))
        for _ in range(max_new_tokens):
            tokens = self._sample()
            new: list[list[int]] = [[] for _ in turns]
            for row in list(open_rows):
                turns[row].append(tokens[row])
                new[row] = [tokens[row]]
                if self.policy.ends_turn(turns[row]):
                    open_rows.remove(row)
            if not open_rows:
                self.unread = new  # the model reads these ids in `extend`, together with the reply
                return turns
            self._read(new)
        self.unread = [[] for _ in turns]
        return turns

    def extend(self, rows: list[int], ids: list[list[int]]) -> None:
        """Keep only `rows` (positions in the current batch) and append `ids`, one list per kept row."""
        index = torch.tensor(rows, device=self.mask.device)
        self.cache.batch_select_indices(index)
        self.mask, self.logits = self.mask[index], self.logits[index]
        self._read([self.unread[row] + new for row, new in zip(rows, ids, strict=True)])

    @torch.no_grad()
    def _read(self, rows: list[list[int]]) -> None:
        """Run the ids of each row, which may be none, through the model on top of the cache."""
        ids, mask = pad_left(rows, self.policy.tokenizer.pad_token_id, self.model.device)
        self.mask = torch.cat([self.mask, mask], dim=1)
        logits = self.model(
            input_ids=ids,
            attention_mask=self.mask,
            position_ids=(self.mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :],
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        if self.logits is not None:  # a row that read nothing keeps its logits
            logits = torch.where(mask[:, -1:].bool(), logits, self.logits)
        self.logits = logits

    def _sample(self) -> list[int]:
        if self.temperature == 0:
            return self.logits.argmax(-1).tolist()
        shares = torch.softmax(self.logits.float() / self.temperature, dim=-1)
        return torch.multinomial(shares, 1, generator=self.generator)[:, 0].tolist()


def pad_left(rows: list[list[int]], pad: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask (1 on real tokens), each of shape (rows, longest row), with the padding on the left."""
    width = max(map(len, rows))
    ids = [[pad] * (width - len(row)) + row for row in rows]
    mask = [[0] * (width - len(row)) + [1] * len(row) for row in rows]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)
