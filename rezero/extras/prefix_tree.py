"""What episodes have in common is computed once when a policy learns from them.

Episodes of one question share their prompt, often the first query, and then the very passages that it brought. Their
tokens form a tree (a trie): a node is a token together with all that stands before it. The model reads a tree as one
row in which a node attends to its ancestors and has its depth as its position, and the vocabulary is scored only where
a token was sampled. Since a token's log-probability depends on nothing but its history, every loss and its gradient
stay what they are; autograd adds up what the episodes that share a token contribute.
"""

from collections.abc import Callable
from itertools import groupby, pairwise
from typing import NamedTuple

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch.nn.parallel import DistributedDataParallel
from transformers import PreTrainedModel

from rezero.policy.sampling import takes_masks

Score = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


class Tree(NamedTuple):
    """Rows of token ids as a tree in depth-first order; all fields but `paths` have one entry per node."""

    ids: list[int]
    parents: list[int]  # -1 for the root
    depths: list[int]
    ends: list[int]  # the node after the last descendant
    paths: list[list[int]]  # per row, the nodes of its tokens


def build_tree(rows: list[list[int]]) -> Tree:
    """The tree of `rows`, which are sorted and start with the same token."""
    tree, before, path = Tree([], [], [], [], []), [], []
    for row in rows:
        shared = next((i for i, pair in enumerate(zip(before, row, strict=False)) if pair[0] != pair[1]), len(before))
        path = [*path[:shared], *range(len(tree.ids), len(tree.ids) + len(row) - shared)]
        tree.ids.extend(row[shared:])
        tree.parents.extend([-1, *path][shared : len(row)])
        tree.depths.extend(range(shared, len(row)))
        tree.ends.extend([0] * (len(row) - shared))
        for node in path:
            tree.ends[node] = len(tree.ids)
        tree.paths.append(path)
        before = row
    return tree


def real_rows(ids: torch.Tensor, mask: torch.Tensor) -> list[list[int]]:
    """The ids of each row that are not padding."""
    return [row[real].tolist() for row, real in zip(ids, mask.bool(), strict=True)]


def shared_logps(
    model: PreTrainedModel, ids: torch.Tensor, mask: torch.Tensor, scored: torch.Tensor, score: Score
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability and entropy of the tokens that `scored` marks, each of its shape (rows, completion); elsewhere 0.

    `ids` and `mask` have the shape (rows, prompt and completion). `score` returns both for logits of shape (n,
    vocabulary) and n ids. A model that takes no masks of ours reads each distinct row by itself.
    """
    inner = model.module if isinstance(model, DistributedDataParallel) else model
    width, scored, trees = scored.shape[1], scored.bool(), takes_masks(inner)
    rows, prompts = real_rows(ids, mask), (mask.sum(1) - mask[:, -width:].sum(1)).tolist()
    order = sorted(range(len(rows)), key=rows.__getitem__)
    node_at, forest, n = torch.zeros_like(ids), [], 0
    for _, same in groupby(order, lambda row: rows[row][: prompts[row]] if trees else rows[row]):
        group = list(same)
        tree = build_tree([rows[row] for row in group])
        for row, path in zip(group, tree.paths, strict=True):
            node_at[row, mask[row].bool()] = torch.tensor(path, device=ids.device) + n
        forest.append((n, tree))
        n += len(tree.ids)
    nodes, which = node_at[:, -width:][scored].unique(return_inverse=True)
    found = []
    for first, tree in forest:
        here = nodes[(nodes >= first) & (nodes < first + len(tree.ids))] - first
        reader = model if tree is forest[-1][1] else inner  # several processes meet once per batch, in the wrapper
        found.append(score(_logits(reader, tree, here), torch.tensor(tree.ids, device=ids.device)[here]))
    logps, entropies = (torch.cat(parts)[which] for parts in zip(*found, strict=True))
    zeros = logps.new_zeros(scored.shape)
    return zeros.masked_scatter(scored, logps), zeros.masked_scatter(scored, entropies)


def _logits(model: PreTrainedModel, tree: Tree, nodes: torch.Tensor) -> torch.Tensor:
    """The logits from which `nodes` were sampled, of shape (nodes, vocabulary)."""
    ids, parents, depths, ends = (torch.tensor(field, device=nodes.device) for field in tree[:4])
    each = torch.arange(len(ids), device=nodes.device)
    below = (each <= each[:, None]) & (each[:, None] < ends)  # a node's ancestors are those whose subtrees hold it
    branches = min(tree.ends) < len(ids)
    return model(
        input_ids=ids[None],
        position_ids=depths[None],
        attention_mask=below[None, None] if branches else None,
        logits_to_keep=parents[nodes],
        use_cache=False,
    ).logits[0]


def lean_batches(batches: list[dict], drop: bool) -> list[dict]:
    """As many batches with the same gradient: episodes that share prefixes side by side, idle ones left out if `drop`.

    Without a KL term a row with advantage 0 adds nothing to the loss; the loss stays normalised by all tokens of the
    step ("dapo"). All processes keep equally many rows, because TRL gathers one value per row; a single one splits few
    groups. Padding is trimmed.
    """
    whole, n = {}, len(batches)
    for key, value in batches[0].items():
        whole[key] = torch.cat([batch[key] for batch in batches]) if value.ndim else value
    prompts, completions = (real_rows(whole[f"{name}_ids"], whole[f"{name}_mask"]) for name in ("prompt", "completion"))
    order = whole["completion_mask"].sum(1).argsort()
    if drop:
        idle = whole["advantages"][order].abs() < 1e-6
        needed = int((~idle).sum())
        spare = max(gather_object([max(needed, n)])) - needed
        order = torch.cat([order[idle][:spare], order[~idle]])
    alike = torch.tensor(sorted(order.tolist(), key=lambda row: (prompts[row], completions[row])))
    alone = drop and PartialState().num_processes == 1
    parts = _whole_groups(alike, prompts, n) if alone else alike.tensor_split(n)
    if (
        drop
    ):  # TRL logs the mean of the batches' mean entropies: with these weights, as if batches were sorted by length
        tokens = (whole["completion_mask"] * whole["tool_mask"]).sum(1).float()
        whole["entropy_weight"] = torch.zeros_like(tokens)
        for old in order.tensor_split(n):
            whole["entropy_weight"][old] = 1 / tokens[old].sum()
        for rows in parts:
            whole["entropy_weight"][rows] *= tokens[rows].sum()
    return [_trimmed(whole, rows) for rows in parts]


def _whole_groups(order: torch.Tensor, prompts: list[list[int]], n: int) -> list[torch.Tensor]:
    """`order` in `n` parts: whole groups, as far as there are enough of them."""
    starts = [i for i in range(1, len(order)) if prompts[order[i]] != prompts[order[i - 1]]]
    parts = list(order.tensor_split(starts))
    while len(parts) < n:
        longest = max(range(len(parts)), key=lambda i: len(parts[i]))
        parts[longest : longest + 1] = parts[longest].tensor_split(2)
    bounds = [len(parts) * i // n for i in range(n + 1)]
    return [torch.cat(parts[i:j]) for i, j in pairwise(bounds)]


def _trimmed(whole: dict, rows: torch.Tensor) -> dict:
    """Some rows of a batch, without the columns of prompt and completion that are padding in all of them."""
    prompt, completion = whole["prompt_mask"][rows].any(0), whole["completion_mask"][rows].any(0)
    batch = {key: value[rows] if value.ndim else value for key, value in whole.items()}
    for key, value in batch.items():
        if key.startswith("prompt"):
            batch[key] = value[:, prompt]
        elif value.ndim == 2 and value.shape[1] == len(completion):
            batch[key] = value[:, completion]
    return batch
