"""Two replacements for parts of transformers that make sampling on a CPU faster: attention and the cache's layers."""

from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.cache_utils import DynamicCache, DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask


def use_grouped_attention(model: PreTrainedModel) -> None:
    """Make `model` attend by `grouped_attention`. Sampling with SmolLM2 on a CPU then takes half the time."""
    if model.config._attn_implementation != "sdpa":
        return  # other attentions have reasons, such as the sinks of gpt-oss
    AttentionInterface.register("grouped", grouped_attention)
    AttentionMaskInterface.register("grouped", sdpa_mask)
    model.set_attn_implementation("grouped")


def grouped_attention(module, query, key, value, attention_mask, scaling=None, **options):
    """The attention of transformers, which copies the cache for each query head that shares a key head.

    For a single new token no copy is needed: the query heads of a group take the place of positions.
    """
    rows, heads, length, width = query.shape
    if length > 1 or heads == key.shape[1]:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **options)
    folded = query.view(rows, key.shape[1], -1, width)
    out = scaled_dot_product_attention(folded, key, value, attn_mask=attention_mask, scale=scaling)
    return out.reshape(rows, 1, heads, -1), None  # values may be narrower than keys


def let_grow(cache: DynamicCache) -> None:
    """Make the layers of an empty cache that keep everything growing ones."""
    cache.layers = [GrowingLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]


class GrowingLayer(DynamicLayer):
    """A cache layer that appends into a buffer with spare room; its parent copies the whole cache at every token."""

    def update(self, key_states, value_states, *args, **kwargs):
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.buffers = self.keys, self.values = key_states[:, :, :0], value_states[:, :, :0]
        start = self.keys.shape[-2]
        end = start + key_states.shape[-2]
        keys, values = self.buffers
        # When rows were selected, self.keys is a new tensor and the buffers are outdated.
        if keys.data_ptr() != self.keys.data_ptr() or keys.shape[-2] < end:
            room = (*key_states.shape[:2], end + 64)
            keys = key_states.new_empty(*room, key_states.shape[-1])
            values = value_states.new_empty(*room, value_states.shape[-1])  # DeepSeek's are narrower
            keys[:, :, :start], values[:, :, :start] = self.keys, self.values
            self.buffers = keys, values
        keys[:, :, start:end], values[:, :, start:end] = key_states, value_states
        self.keys, self.values = keys[:, :, :end], values[:, :, :end]
        return self.keys, self.values
