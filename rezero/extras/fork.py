"""Groups that begin at a miss, and what a training step counts of its groups.

From the question on, the episodes of a group differ in their first query and in their reading, and often do not differ
in reward at all. With `Config.forked` a group whose first searches include a miss begins there: all of its episodes
continue one prefix (the prompt, a first turn whose search missed, and its passages), so they compare what a policy does
after a miss, and nothing else. The prefix carries no loss. Tree-GRPO (arXiv 2509.21240) branches at any turn.
"""

import torch
from accelerate.utils import gather_object

from rezero.protocol import Episode

BATCH = 128  # episodes that are sampled together, at most, unless a group has more


def options(size: int, share: float, tokens: dict[str, int]) -> dict:
    """Options of `rollout` that fork a `share` of the groups of `size` episodes that can be forked.

    Batches hold whole groups. Tokens that were sampled, but are not in the episodes with mask 1, are added to
    `tokens["sampled"]`: first turns that others replace, and those that are only read from then on.
    """

    def fork(batch: list) -> dict[int, int]:
        sources = choose(batch, size, share)
        tokens["sampled"] += sum(sum(batch[place].mask) for place in sources)
        return sources

    return {"fork": fork, "batch_size": max(1, BATCH // size) * size}


def choose(batch: list, size: int, share: float) -> dict[int, int]:
    """Of a batch after its first turns: position -> position whose prefix it continues; others are left out.

    `batch` holds whole groups of `size` running episodes. The prefix of a group is that of its first episode that
    missed and goes on; as all are sampled alike, the first is a random one. All of the group take it, also those that
    have hit or answered. A `share` between 0 and 1 draws from torch's global generator, once per group with a miss.
    """
    sources = {}
    for start in range(0, len(batch), size):
        group = range(start, start + size)
        source = next((place for place in group if _missed(batch[place])), None)
        if source is not None and (share == 1 or torch.rand(()).item() < share):
            sources |= dict.fromkeys(group, source)
    return sources


def _missed(state) -> bool:
    return state.outcome is None and Episode(state.question, tuple(state.turns), "unfinished").missed


class CountedSteps:
    """A part of TRL's GRPOTrainer (named before it among the bases) that logs what a step's groups were like.

    `tokens/sampled` counts the tokens sampled by all processes. `forked_groups` is the share of the groups that were
    forked; of forked and of ordinary groups apart, `reward_std` is the mean standard deviation of the total reward
    within a group, and `zero_variance_groups` the share of the groups in which it is 0.
    """

    def _calculate_rewards(self, inputs, *rest):
        given = super()._calculate_rewards(inputs, *rest)  # shape (episodes of all processes, rewards)
        forked = gather_object([one["episode"].forked for one in inputs])
        totals = (given * self.reward_weights.to(given.device)).nansum(1).view(-1, self.num_generations)
        scored = ~given.isnan().all(1).view_as(totals)
        self._log_metric("tokens/sampled", self.accelerator.num_processes * self.tokens["sampled"])
        for values, real, fork in zip(totals, scored, forked[:: self.num_generations], strict=True):
            kind, std = "forked" if fork else "ordinary", values[real].std().item() if real.sum() > 1 else 0.0
            self._log_metric("forked_groups", float(fork))
            self._log_metric(f"reward_std/{kind}", std)
            self._log_metric(f"zero_variance_groups/{kind}", float(std < 1e-8))
        return given
