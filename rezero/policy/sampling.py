"""Batched sampling over the turns of an episode, with one KV cache."""

from inspect import signature
from pkgutil import resolve_name

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer


class Generation:
    """Sampling by a policy's own model; for the arguments see `Policy.start`.

    Episodes whose histories are equal, such as those of one question before their draws differ, are computed as one
    row. Rows are padded on the left; padded positions stay in the cache and are masked. In a sliding window padding
    would use up slots, and it would enter the state of a recurrent layer: models with such layers (`keeps_padding` is
    false) read each episode for itself and anew every turn.
    """

    def __init__(self, policy, prompts: list[list[int]], temperature: float, generator: torch.Generator | None = None):
        self.policy, self.model, self.temperature, self.generator = policy, policy.model, temperature, generator
        self._begin(prompts)

    def _begin(self, episodes: list[list[int]]) -> None:
        self.cache = new_cache(self.model.config)
        self.padded = keeps_padding(self.cache)
        resolve_name("rezero.extras.fast_cpu:let_grow")(self.cache)
        self.logits = None  # of each row's next token, shape (rows, vocabulary)
        self.row_of = [0] * len(episodes)  # the row of each episode
        self.texts: list[list[int]] = [[] for _ in episodes]  # what the model has read of each episode
        self._read(episodes)

    def generate(self, max_new_tokens: int) -> list[list[int]]:
        """One turn per episode: the sampled ids, up to and including the one that ends the turn."""
        turns: list[list[int]] = [[] for _ in self.row_of]
        self.unread = [[] for _ in turns]
        going = set(range(len(turns)))
        for _ in range(max_new_tokens):
            tokens = draw(self.logits, self.temperature, self.generator, self.row_of).tolist()
            new: list[list[int]] = [[] for _ in turns]
            for episode in list(going):
                turns[episode].append(tokens[episode])
                new[episode] = [tokens[episode]]
                if self.policy.ends_turn(turns[episode]):
                    going.remove(episode)
            if not going:
                self.unread = new  # the model reads these ids in `extend`, together with the reply
                break
            self._read(new)
        return turns

    def extend(self, episodes: list[int], ids: list[list[int]]) -> None:
        """Keep only `episodes` (positions in the batch, some maybe repeated); append `ids`, one list per kept one."""
        news = [self.unread[episode] + new for episode, new in zip(episodes, ids, strict=True)]
        self.row_of, self.texts = [self.row_of[one] for one in episodes], [[*self.texts[one]] for one in episodes]
        if not self.padded:
            return self._begin([text + new for text, new in zip(self.texts, news, strict=True)])
        self._read(news)

    @torch.no_grad()
    def _read(self, ids: list[list[int]]) -> None:
        """Run the ids of each episode, which may be none, through the model on top of the cache."""
        for text, new in zip(self.texts, ids, strict=True):
            text += new
        apart = [0] * len(ids) if self.padded else range(len(ids))
        rows, self.row_of = numbered(list(zip(self.row_of, map(tuple, ids), apart, strict=True)))
        kept = [row for row, *_ in rows]  # a row may be repeated
        if self.logits is None:
            self.mask = torch.zeros(len(rows), 0, dtype=torch.long, device=self.model.device)
        elif kept != list(range(len(self.mask))):
            index = torch.tensor(kept, device=self.mask.device)
            self.cache.batch_select_indices(index)
            self.mask, self.logits = self.mask[index], self.logits[index]
        new, mask = pad_left([list(read) for _, read, _ in rows], self.policy.tokenizer.pad_token_id, self.model.device)
        self.mask = torch.cat([self.mask, mask], dim=1)
        logits = self.model(
            input_ids=new,
            attention_mask=self.mask,
            position_ids=(self.mask.cumsum(1) - 1).clamp(min=0)[:, -new.shape[1] :],
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        if self.logits is not None:  # a row that read nothing keeps its logits
            logits = torch.where(mask[:, -1:].bool(), logits, self.logits)
        self.logits = logits


def numbered(things: list) -> tuple[list, list[int]]:
    """The distinct `things` in order, and the number of each thing among them."""
    numbers: dict = {}
    of = [numbers.setdefault(thing, len(numbers)) for thing in things]
    return list(numbers), of


def draw(logits: torch.Tensor, temperature: float, generator: torch.Generator | None, rows=slice(None)) -> torch.Tensor:
    """The next token of each of `rows`, of which some may be equal: each draws for itself."""
    if temperature == 0:
        return logits.argmax(-1)[rows]
    shares = torch.softmax(logits.float() / temperature, dim=-1)
    return torch.multinomial(shares[rows], 1, generator=generator)[:, 0]


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
    """An empty cache for a model of this configuration. Sliding windows that leave nothing out are none."""
    cache = DynamicCache(config=config)
    most = getattr(config.get_text_config(), "max_position_embeddings", None) or float("inf")
    for number, layer in enumerate(cache.layers):
        if type(layer) is DynamicSlidingWindowLayer and layer.sliding_window >= most:
            cache.layers[number] = DynamicLayer()
    return cache


def keeps_padding(cache: DynamicCache) -> bool:
    """Whether padding may stay in the cache: whether all layers attend to all positions, and can mask them."""
    return all(type(layer) is DynamicLayer for layer in cache.layers)


def pad_left(rows: list[list[int]], pad: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask (1 on real tokens), each of shape (rows, longest row), with the padding on the left."""
    width = max(map(len, rows))
    ids = [[pad] * (width - len(row)) + row for row in rows]
    mask = [[0] * (width - len(row)) + [1] * len(row) for row in rows]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)
