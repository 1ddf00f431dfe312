"""Batched sampling over the turns of an episode, with one KV cache."""

from inspect import signature

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from rezero.policy.fast_cpu import GrowingLayer


class Generation:
    """Sampling by a policy's own model; for the arguments see `Policy.start`.

    What the model reads at once is padded on the left to its longest row. Padded positions stay in the cache and are
    masked; positions count real tokens only. Rows whose episode is over leave the cache in `extend`.

    Padding between turns would use up slots of a sliding window, and would enter the state of a recurrent layer. Models
    with such layers (`keeps_padding` is false) therefore read their episodes anew every turn, padded at the beginning.
    """

    def __init__(self, policy, prompts: list[list[int]], temperature: float, generator: torch.Generator | None = None):
        self.policy, self.model, self.temperature, self.generator = policy, policy.model, temperature, generator
        self._begin(prompts)

    def _begin(self, rows: list[list[int]]) -> None:
        self.cache = new_cache(self.model.config)
        self.mask = torch.zeros(len(rows), 0, dtype=torch.long, device=self.model.device)
        self.logits = None  # of each row's next token, shape (rows, vocabulary)
        self.texts: list[list[int]] = [[] for _ in rows]  # what the model has read of each row
        self._read(rows)

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
        news = [self.unread[row] + new for row, new in zip(rows, ids, strict=True)]
        texts = [self.texts[row] for row in rows]
        if not keeps_padding(self.cache):
            return self._begin([text + new for text, new in zip(texts, news, strict=True)])
        index = torch.tensor(rows, device=self.mask.device)
        self.cache.batch_select_indices(index)
        self.mask, self.logits, self.texts = self.mask[index], self.logits[index], texts
        self._read(news)

    @torch.no_grad()
    def _read(self, rows: list[list[int]]) -> None:
        """Run the ids of each row, which may be none, through the model on top of the cache."""
        ids, mask = pad_left(rows, self.policy.tokenizer.pad_token_id, self.model.device)
        self.mask = torch.cat([self.mask, mask], dim=1)
        for text, new in zip(self.texts, rows, strict=True):
            text += new
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


def check_cache(model) -> None:
    """ValueError if `model`, or what has its `config` alone, cannot go on from a cache of transformers."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    taken = signature(base.forward).parameters if hasattr(base, "forward") else ()
    why = [f"it takes `{name}`" for name in ("cache_params", "state") if name in taken]
    try:
        new_cache(model.config)
    except (KeyError, AttributeError) as error:
        why = [f"no cache for {error}"]
    if why:
        what = f"{model.config.model_type} models keep their state in a way of their own ({why[0]})"
        raise ValueError(f"{model.config.name_or_path}: {what}; want a model that takes `past_key_values`")


def new_cache(config) -> DynamicCache:
    """An empty cache for a model of this configuration."""
    cache = DynamicCache(config=config)
    most = getattr(config.get_text_config(), "max_position_embeddings", None) or float("inf")
    for number, layer in enumerate(cache.layers):
        wide = type(layer) is DynamicSlidingWindowLayer and layer.sliding_window >= most  # it leaves nothing out
        if type(layer) is DynamicLayer or wide:
            cache.layers[number] = GrowingLayer()
    return cache


def keeps_padding(cache: DynamicCache) -> bool:
    """Whether padding may stay in the cache: whether all layers attend to all positions, and can mask them."""
    return all(type(layer) is GrowingLayer for layer in cache.layers)


def pad_left(rows: list[list[int]], pad: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask (1 on real tokens), each of shape (rows, longest row), with the padding on the left."""
    width = max(map(len, rows))
    ids = [[pad] * (width - len(row)) + row for row in rows]
    mask = [[0] * (width - len(row)) + [1] * len(row) for row in rows]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)
