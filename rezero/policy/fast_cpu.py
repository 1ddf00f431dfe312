"""Load a policy and generate with it.

One interface for every backend, stateful over turns so that a backend can keep its KV cache: `start` with the
prompts, then alternate `generate` (the next turn of the rows that go on) and `extend` (append the environment's
tokens). Token in, token out: nothing that was sampled is ever decoded and tokenized again.
"""

from torch.nn.functional import scaled_dot_product_attention
from transformers.cache_utils import DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward


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
