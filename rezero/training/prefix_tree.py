"""Log-probabilities of a batch of episodes in which what they have in common is computed once.

Episodes of one question share their prompt, often the first query, and then the very passages that it brought. Their
tokens form a tree (a trie): a node is a token together with all that stands before it. The model reads a tree as one
row in which a node attends to its ancestors and has its depth as its position, and the vocabulary is scored only where
a token was sampled. Since a token's log-probability depends on nothing but its history, every loss and its gradient
stay what they are; autograd adds up what the episodes that share a token contribute.
"""

from collections.abc import Callable
from itertools import groupby
from typing import NamedTuple

import torch
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
    width, scored, trees = scored.shape[1], scored.bool(), takes_masks(model)
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
        found.append(score(_logits(model, tree, here), torch.tensor(tree.ids, device=ids.device)[here]))
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
