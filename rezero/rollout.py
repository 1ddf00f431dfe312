"""Batched multi-turn episodes: token ids in, token ids out, with the loss mask.

As in Search-R1 and ReZero, a turn is sampled up to its first closed action, `<information>` answers a search, and only
sampled tokens have mask 1. Added: a correction after a malformed turn, failures of engines told, why an episode ended.
"""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pkgutil import resolve_name
from time import perf_counter

import torch

from rezero.policy.base import Policy
from rezero.protocol import Episode, Sampling, Turn, build_prompt, parse_turn
from rezero.questions import Question
from rezero.search.base import Engine, SearchContext
from rezero.search_env import respond
from rezero.text import duration


@dataclass
class _Running:
    question: Question
    prompt: list[dict]
    prompt_ids: list[int]
    turns: list[Turn] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    mask: list[int] = field(default_factory=list)
    outcome: str | None = None
    reply: list[int] = field(default_factory=list)  # to the last turn

    def add(self, ids: list[int], mask: int) -> None:
        self.ids += ids
        self.mask += [mask] * len(ids)

    def episode(self) -> Episode:
        tokens = map(tuple, (self.prompt_ids, self.ids, self.mask))
        return Episode(self.question, tuple(self.turns), self.outcome or "unfinished", tuple(self.prompt), *tokens)


def rollout(
    policy: Policy,
    engine: Engine,
    questions: list[Question],
    sampling: Sampling,
    *,
    generator: torch.Generator | None = None,
    batch_size: int = 128,
    progress: str | None = None,
    seconds: dict[str, float] | None = None,
    fork: Callable[[list[_Running]], dict[int, int]] | None = None,
) -> list[Episode]:
    """One episode per question, in the order of `questions`. The model is in evaluation mode meanwhile.

    Draws come from `generator`, or from torch's global one. `progress` names the work in lines that say how far it is,
    every 5 seconds at most. The time spent is added to what `seconds` has for "generation" and "search". `fork`, called
    after the first turns of a batch, maps positions in it to those whose first turn they go on from instead of theirs.
    """
    episodes: list[Episode] = []
    seconds = {"generation": 0.0, "search": 0.0} if seconds is None else seconds
    training = policy.model.training
    policy.model.eval()  # in training mode with gradient checkpointing it would keep no cache, and read no context
    merged = nullcontext if policy.backend else resolve_name("rezero.extras.merge:merged")
    try:
        begun = said = perf_counter()
        with merged(policy.model):
            for start in range(0, len(questions), batch_size):
                asked = questions[start : start + batch_size]
                *_, batch = turn_by_turn(policy, engine, asked, sampling, generator, seconds, fork)
                episodes += [state.episode() for state in batch]
                done, most, now = len(episodes), len(questions), perf_counter()
                if progress and done < most and now - said > 5:
                    said, left = now, duration((now - begun) * (most - done) / done)
                    print(f"{progress}: {done} of {most} episodes, about {left} left", flush=True)
    finally:
        policy.model.train(training)
    return episodes


def turn_by_turn(policy, engine, questions, sampling, generator, seconds: dict, fork=None) -> Iterator[list[_Running]]:
    """Advance one episode per question, turn by turn until each has an outcome; after each turn yield all of them."""
    prompts = [build_prompt(question.text, sampling.prompt_style) for question in questions]
    active = batch = list(map(_Running, questions, prompts, map(policy.prompt_ids, prompts)))
    clock = perf_counter()
    generation = policy.start([state.prompt_ids for state in active], sampling.temperature, generator)
    for number in range(1, sampling.max_turns + 1):
        room = [sampling.episode_tokens - len(state.ids) for state in active]
        sampled = generation.generate(min(sampling.turn_tokens, max(room)))
        sampled_at = perf_counter()
        seconds["generation"] += sampled_at - clock
        for state, ids, left in zip(active, sampled, room, strict=True):
            _take_turn(policy, state, ids[:left], last=number == sampling.max_turns)
        going = [state for state in active if state.outcome is None]
        contexts = [SearchContext(state.question.id, number) for state in going]
        replies = respond([state.turns[-1] for state in going], engine, sampling.k, contexts)
        clock = perf_counter()
        seconds["search"] += clock - sampled_at
        for state, turn in zip(going, replies, strict=True):
            state.reply = policy.information_ids(turn.information, state.ids)
            if len(state.ids) + len(state.reply) < sampling.episode_tokens:
                state.turns[-1] = turn
                state.add(state.reply, mask=0)
            else:
                state.outcome = "token_limit"
        sources = fork(active) if fork and number == 1 else {}
        for place, source in sources.items():  # also in the source itself, what was said by then carries no loss
            state, other = active[place], active[source]
            state.turns, state.ids, state.mask = [*other.turns], [*other.ids], [0] * len(other.ids)
            state.reply, state.outcome = other.reply, other.outcome
        kept = [i for i, state in enumerate(active) if state.outcome is None]
        active = [active[i] for i in kept]
        yield batch
        if not active:
            return
        generation.extend([sources.get(i, i) for i in kept], [state.reply for state in active])


def _take_turn(policy: Policy, state: _Running, ids: list[int], last: bool) -> None:
    """Record a sampled turn. An answer, a second malformed turn or the last turn ends the episode."""
    state.add(ids, mask=1)
    turn = parse_turn(policy.decode(ids))
    state.turns.append(turn)
    if turn.action == "answer":
        state.outcome = "answered"
        if ids[-1] != policy.end_of_turn:
            state.add([policy.end_of_turn], mask=1)  # stopping is trained, too
    elif turn.action == "malformed" and sum(t.action == "malformed" for t in state.turns) > 1:
        state.outcome = "malformed"
    elif last:
        state.outcome = "turn_limit"
