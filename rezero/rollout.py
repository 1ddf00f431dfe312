"""Batched multi-turn episodes: token ids in, token ids out, with the loss mask.

As in Search-R1 and ReZero, the policy samples a turn up to its first closed action, a search is answered inside
`<information>`, and only sampled tokens have mask 1. Added here: a correction after a malformed turn, engine failures
that the policy is told about, and the reason why each episode ended.
"""

from collections.abc import Iterator
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

    def add(self, ids: list[int], mask: int) -> None:
        self.ids += ids
        self.mask += [mask] * len(ids)


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
) -> list[Episode]:
    """One episode per question, in the order of `questions`. The model is in evaluation mode meanwhile.

    Draws come from `generator`, or from torch's global one. `progress` names the work in lines that say how
    far it is, every 5 seconds at most. The time spent is added to `seconds` under the keys "generation" and "search".
    """
    episodes: list[Episode] = []
    training = policy.model.training
    policy.model.eval()  # in training mode with gradient checkpointing it would keep no cache, and read no context
    try:
        begun = said = perf_counter()
        merged = resolve_name("rezero.extras.merge:merged")
        with nullcontext() if policy.backend else merged(policy.model):
            for start in range(0, len(questions), batch_size):
                batch = []
                for question in questions[start : start + batch_size]:
                    prompt = build_prompt(question.text, sampling.prompt_style)
                    batch.append(_Running(question, prompt, policy.prompt_ids(prompt)))
                _run(policy, engine, batch, sampling, generator, {} if seconds is None else seconds)
                for one in batch:
                    tokens = map(tuple, (one.prompt_ids, one.ids, one.mask))
                    episodes.append(Episode(one.question, tuple(one.turns), one.outcome, tuple(one.prompt), *tokens))
                done, most, now = len(episodes), len(questions), perf_counter()
                if progress and done < most and now - said > 5:
                    said, left = now, duration((now - begun) * (most - done) / done)
                    print(f"{progress}: {done} of {most} episodes, about {left} left", flush=True)
    finally:
        policy.model.train(training)
    return episodes


def token_runs(policy: Policy, episode: Episode) -> Iterator[tuple[list[int], Turn | None]]:
    """The token ids that a rollout of this episode would record, as runs of one author, in order.

    What the policy writes, the end of turn after an answer included, comes with its turn; what it reads, with None.
    """
    yield policy.prompt_ids(list(episode.prompt)), None
    for number, turn in enumerate(episode.turns, start=1):
        answers = episode.outcome == "answered" and number == len(episode.turns)
        written = policy.encode(policy.template.inert(turn.text)) + [policy.end_of_turn] * answers
        yield written, turn
        if turn.information is not None:
            yield policy.information_ids(turn.information, written), None


def _run(policy, engine, active: list[_Running], sampling: Sampling, generator, seconds: dict[str, float]) -> None:
    """Advance all episodes turn by turn until each has an outcome."""
    clock = perf_counter()
    generation = policy.start([state.prompt_ids for state in active], sampling.temperature, generator)
    for number in range(1, sampling.max_turns + 1):
        room = [sampling.episode_tokens - len(state.ids) for state in active]
        sampled = generation.generate(min(sampling.turn_tokens, max(room)))
        clock = _lap(seconds, "generation", clock)
        for state, ids, left in zip(active, sampled, room, strict=True):
            _take_turn(policy, state, ids[:left], last=number == sampling.max_turns)
        going = [i for i, state in enumerate(active) if state.outcome is None]
        contexts = [SearchContext(active[i].question.id, number) for i in going]
        replies = respond([active[i].turns[-1] for i in going], engine, sampling.k, contexts)
        clock = _lap(seconds, "search", clock)
        kept, news = [], []
        for i, turn in zip(going, replies, strict=True):
            state = active[i]
            new = policy.information_ids(turn.information, state.ids)
            if len(state.ids) + len(new) >= sampling.episode_tokens:
                state.outcome = "token_limit"
                continue
            state.turns[-1] = turn
            state.add(new, mask=0)
            kept.append(i)
            news.append(new)
        if not kept:
            return
        generation.extend(kept, news)
        active = [active[i] for i in kept]


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


def _lap(seconds: dict[str, float], name: str, since: float) -> float:
    now = perf_counter()
    seconds[name] = seconds.get(name, 0.0) + now - since
    return now
