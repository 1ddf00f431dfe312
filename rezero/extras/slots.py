"""Batched sampling on a GPU: rows have fixed places, so that a step of decoding is captured once and then replayed.

A small model on a GPU waits for Python: each token takes thousands of launches. Here a slot holds the keys and values
of one episode from position 0 on, without padding, and decoding steps have the same shapes and addresses every time: a
CUDA graph replays them. Sampled tokens stay on the device; the host looks at them every few tokens and cuts the turns
that have ended. On a CPU the same steps run uncaptured.
"""

from functools import lru_cache

import torch
from torch.nn.functional import pad
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from rezero.policy.fast_cpu import use_grouped_attention
from rezero.policy.sampling import draw, pad_left

CHECKED = 8  # tokens between two looks at which turns have ended
BLOCK = 256  # widths are multiples of it, so that few different ones are captured


class SlotLayer(DynamicLayer):
    """A cache layer whose keys and values, of shape (slots, heads, room + 1, width), stay where they are."""

    def __init__(self, slots: "Slots"):
        super().__init__()
        self.slots = slots

    def update(self, key_states, value_states, *args, **kwargs):
        slots, n = self.slots, len(key_states)
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            shape = (slots.rows, key_states.shape[1], slots.room + 1)
            self.keys, self.values = (new.new_zeros(*shape, new.shape[3]) for new in (key_states, value_states))
        row = torch.arange(n, device=key_states.device)[:, None]
        for held, new in ((self.keys, key_states), (self.values, value_states)):
            held[row, :, slots.places] = new.transpose(1, 2)
        return self.keys[:n, :, : slots.width], self.values[:n, :, : slots.width]

    def get_seq_length(self) -> int:
        return 0  # positions and masks are given


class Slots:
    """The slots of a model, and the steps of decoding that were captured over them."""

    def __init__(self, model: PreTrainedModel):
        self.model, self.cache, self.graphs, self.rows, self.room = model, DynamicCache(config=model.config), {}, 0, 0
        self.cache.layers = [SlotLayer(self) for _ in self.cache.layers]

    def reserve(self, rows: int, positions: int) -> int:
        """Make room and keep what the slots hold; the width of attention over so many positions."""
        width = -(-positions // BLOCK) * BLOCK
        if rows > self.rows or width > self.room:
            more = max(0, width - self.room), 0, 0, 0, max(0, rows - self.rows)
            for layer in (layer for layer in self.cache.layers if layer.is_initialized):
                layer.keys, layer.values = (pad(held, (0, 0, 0, *more)) for held in (layer.keys, layer.values))
            self.room, self.rows = self.room + more[0], self.rows + more[-1]
            self.graphs.clear()  # they would write to the old buffers
        return width

    def keep(self, rows: list[int]) -> None:
        """Move what these slots hold to the first slots."""
        index = torch.tensor(rows, device=self.model.device)
        for layer in self.cache.layers:
            for held in (layer.keys, layer.values):
                held[: len(rows)] = held[index]

    def read(self, ids: torch.Tensor, places: torch.Tensor, positions: torch.Tensor, width: int) -> torch.Tensor:
        """Logits after the last of `ids`, (rows, tokens), in the first slots; `places` is where they are kept."""
        self.places, self.width = places, width
        mask = torch.arange(width, device=ids.device) <= positions[:, None, :, None]
        options = dict(past_key_values=self.cache, use_cache=True, logits_to_keep=1)
        return self.model(input_ids=ids, position_ids=positions, attention_mask=mask, **options).logits[:, -1]

    def decode(self, ids: torch.Tensor, positions: torch.Tensor, width: int, merged: bool) -> torch.Tensor:
        """`read` for one token per row, captured on a GPU; the logits last until the next call."""
        if ids.device.type != "cuda":
            return self.read(ids, positions, positions, width)
        key = len(ids), width, merged
        if key not in self.graphs:
            held, stream, graph = (ids.clone(), positions.clone()), torch.cuda.Stream(), torch.cuda.CUDAGraph()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):  # once uncaptured, as CUDA graphs ask: libraries set themselves up
                self.read(*held, held[1], width)
            torch.cuda.current_stream().wait_stream(stream)
            pool = next(iter(self.graphs.values()))[0].pool() if self.graphs else None  # one at a time is replayed
            with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
                logits = self.read(*held, held[1], width)
            self.graphs[key] = graph, held, logits
        graph, held, logits = self.graphs[key]
        held[0].copy_(ids)
        held[1].copy_(positions)
        graph.replay()
        return logits


@lru_cache(maxsize=1)
def slots_of(model: PreTrainedModel) -> Slots:
    """The slots of `model`, kept until another model samples."""
    use_grouped_attention(model)
    return Slots(model)


class SlotGeneration:
    """The interface of `sampling.Generation`; the slot of a row is its position in the batch."""

    def __init__(self, policy, prompts: list[list[int]], temperature: float, generator: torch.Generator | None = None):
        self.policy, self.temperature, self.generator = policy, temperature, generator
        self.slots, self.lengths = slots_of(policy.model), [0] * len(prompts)
        self._read(prompts)

    @torch.no_grad()
    def generate(self, max_new_tokens: int) -> list[list[int]]:
        """One turn per row: the sampled ids, up to and including the one that ends the turn."""
        turns: list[list[int]] = [[] for _ in self.lengths]
        going = list(range(len(turns)))
        for done in range(0, max_new_tokens, CHECKED):
            sampled = self._decode(min(CHECKED, max_new_tokens - done))
            going = [row for row in going if not self._take(row, sampled[row], turns[row])]
            if not going:
                break
        return turns

    def extend(self, rows: list[int], ids: list[list[int]]) -> None:
        """Keep only `rows` (positions in the current batch) and append `ids`, at least one per kept row."""
        self.slots.keep(rows)
        self.lengths = [self.lengths[row] for row in rows]
        self._read(ids)

    def _take(self, row: int, tokens: list[int], turn: list[int]) -> bool:
        """Add the tokens to the turn up to the one that ends it; whether one does. What follows is written over."""
        for token in tokens:
            turn.append(token)
            self.lengths[row] += 1
            if self.policy.ends_turn(turn):
                return True
        return False

    def _decode(self, steps: int) -> list[list[int]]:
        """Sample `steps` tokens per row, be its turn open or not; idle rows make the number of rows a power of two."""
        idle = (1 << (len(self.lengths) - 1).bit_length()) - len(self.lengths)
        held, sampled = self.lengths + [0] * idle, []
        width, start = (
            self.slots.reserve(len(held), max(held) + steps),
            torch.tensor(held)[:, None].to(self.logits.device),
        )
        logits = torch.cat([self.logits, self.logits[:1].expand(idle, -1)])
        merged = any(getattr(part, "merged", False) for part in self.slots.model.modules())
        for step in range(steps):
            sampled.append(draw(logits, self.temperature, self.generator))
            logits = self.slots.decode(sampled[-1][:, None], start + step, width, merged)
        self.logits = logits[: len(self.lengths)].clone()
        return torch.stack(sampled, dim=1).tolist()

    @torch.no_grad()
    def _read(self, rows: list[list[int]]) -> None:
        """Append ids to each row, padded on the left; what is padding is kept in a place that nothing reads."""
        ids, real = pad_left(rows, self.policy.tokenizer.pad_token_id, self.slots.model.device)
        start = torch.tensor(self.lengths, device=ids.device)[:, None]
        self.lengths = [length + len(new) for length, new in zip(self.lengths, rows, strict=True)]
        width, positions = self.slots.reserve(len(rows), max(self.lengths)), (start + real.cumsum(1) - 1).clamp(min=0)
        self.logits = self.slots.read(ids, torch.where(real.bool(), positions, self.slots.room), positions, width)
