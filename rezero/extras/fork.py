"""Groups that begin at a miss, and what a training step logs of its episodes and groups.

The episodes of a group differ in their first query and in how they read, and often earn the same. With `Config.forked`
a group in which a first search missed begins there: all of its episodes go on from one prefix (prompt, first turn,
passages), so what is compared is what a policy does after a miss. The prefix carries no loss.
"""

from time import perf_counter

import torch
from accelerate.utils import gather_object

from rezero.protocol import Episode
from rezero.training.callbacks import episode_values

BATCH = 128  # episodes sampled together at most, unless a group has more


def options(size: int, share: float, tokens: dict[str, int]) -> dict:
    """Options of `rollout` with which a `share` of the groups of `size` episodes that can be forked are.

    Sampled tokens that no `env_mask` will count are added to `tokens["sampled"]`: those of the forked groups' first
    turns, of which one per group is read and the others are thrown away.
    """

    def fork(batch: list) -> dict[int, int]:
        sources = choose(batch, size, share)
        tokens["sampled"] += sum(sum(batch[place].mask) for place in sources)
        return sources

    return {"fork": fork, "batch_size": max(1, BATCH // size) * size}


def choose(batch: list, size: int, share: float) -> dict[int, int]:
    """Position -> position whose prefix it goes on from, for all members of the groups that are forked.

    `batch` holds whole groups of `size` running episodes after their first turns. A group's prefix is that of its first
    member that missed and is not over; since all were sampled alike, the first is a random one. Members that hit or
    have answered take it, too. A `share` between 0 and 1 is drawn from torch's global generator.
    """
    sources = {}
    for start in range(0, len(batch), size):
        group = range(start, start + size)
        going = [place for place in group if batch[place].outcome is None]
        played = ((place, Episode(batch[place].question, tuple(batch[place].turns), "unfinished")) for place in going)
        source = next((place for place, episode in played if episode.missed), None)
        if source is not None and (share == 1 or torch.rand(()).item() < share):
            sources |= dict.fromkeys(group, source)
    return sources


def is_forked(episode: Episode) -> bool:
    """Whether an episode from a rollout went on from a prefix: its first token was only read."""
    return episode.env_mask[:1] == (0,)


class CountedSteps:
    """A part of TRL's GRPOTrainer (named before it among the bases) that logs what a step's episodes were like.

    Beside `episode_values`: `tokens/sampled`, by all processes; `forked_groups`, a share of the groups; and, of forked
    and of ordinary groups apart, `reward_std`, the mean standard deviation of the total reward within a group, and
    `zero_variance_groups`, the share of those in which it is 0.
    """

    def _calculate_rewards(self, inputs, *rest):
        clock, episodes = perf_counter(), [one["episode"] for one in inputs]
        given = super()._calculate_rewards(inputs, *rest)  # shape (episodes of all processes, rewards)
        self.seconds["rewards"] += perf_counter() - clock
        logged = [(name, value) for name, values in episode_values(episodes).items() for value in values]
        logged.append(("tokens/sampled", self.accelerator.num_processes * self.tokens["sampled"]))  # TRL logs means
        totals = (given * self.reward_weights.to(given.device)).nansum(1).view(-1, self.num_generations)
        scored, forks = ~given.isnan().all(1).view_as(totals), gather_object(list(map(is_forked, episodes)))
        for values, real, fork in zip(totals, scored, forks[:: self.num_generations], strict=True):
            kind, std = "forked" if fork else "ordinary", values[real].std().item() if real.sum() > 1 else 0.0
            logged += [("forked_groups", float(fork)), (f"reward_std/{kind}", std)]
            logged.append((f"zero_variance_groups/{kind}", float(std < 1e-8)))
        for name, value in logged:
            self._log_metric(name, value)
        return given
