"""Batched multi-turn episodes: token in, token out, with the loss mask.

Works as Search-R1 and ReZero describe: the policy samples a turn up to the first closed action, a search is answered
inside `<information>`, and only sampled tokens carry mask 1. What this adds: one corrective message for a malformed
turn, engine failures that the policy is told about, and the reason why each episode ended.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from time import perf_counter

import torch
from tqdm import tqdm

from rezero.policy import Policy
from rezero.protocol import CORRECTION, ENGINE_FAILED, Episode, Turn, build_prompt, format_hits, neutralize, parse_turn
from rezero.questions import Question
from rezero.search import Asker, Engine, SearchError


@dataclass(frozen=True)
class Budget:
    """What one episode may spend. Tokens count everything after the prompt, retrieved text included."""

    max_turns: int = 20
    turn_tokens: int = 512
    episode_tokens: int = 8192

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise ValueError(f"{name}={value}: want at least 1")


@dataclass
class _Running:
    """An episode under way."""

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

    def episode(self) -> Episode:
        return Episode(
            question=self.question,
            turns=tuple(self.turns),
            outcome=self.outcome,
            prompt=tuple(self.prompt),
            prompt_ids=tuple(self.prompt_ids),
            completion_ids=tuple(self.ids),
            env_mask=tuple(self.mask),
        )


def rollout(
    policy: Policy,
    engine: Engine,
    questions: list[Question],
    *,
    k: int,
    budget: Budget,
    prompt_style: str = "full",
    temperature: float = 0.0,
    generator: torch.Generator | None = None,
    batch_size: int = 128,
    progress: str | None = None,
    seconds: dict[str, float] | None = None,
) -> list[Episode]:
    """One episode a question, in the order of `questions`; the model is in evaluation mode while they are sampled.

    `temperature` 0 is greedy. `progress` names a progress bar over batches. `seconds`, when given, is added to under
    the keys "generation" and "search".
    """
    starts = range(0, len(questions), batch_size)
    seconds = {} if seconds is None else seconds
    episodes: list[Episode] = []
    training = policy.model.training
    policy.model.eval()  # in training mode, with gradient checkpointing, it would keep no cache: each token alone
    for start in tqdm(starts, desc=progress, disable=progress is None, mininterval=1, leave=False):
        running = []
        for question in questions[start : start + batch_size]:
            prompt = build_prompt(question.text, prompt_style)
            running.append(_Running(question, prompt, policy.prompt_ids(prompt)))
        _run(policy, engine, running, k, budget, temperature, generator, seconds)
        episodes += [state.episode() for state in running]
    policy.model.train(training)
    return episodes


def respond(turns: list[Turn], engine: Engine, k: int, askers: list[Asker] | None = None) -> list[Turn]:
    """Each turn with the reply the environment gives it: hits for a search, a correction for a malformed turn.

    A batch that makes the engine fail is asked again query by query, so that one bad query spoils no other.
    """
    searching = [i for i, turn in enumerate(turns) if turn.action == "search"]
    asked = [askers[i] for i in searching] if askers else [Asker(str(i), 1) for i in searching]
    results = _search([turns[i].argument for i in searching], engine, k, asked)
    replies = list(turns)
    for i, result in zip(searching, results, strict=True):
        if isinstance(result, SearchError):
            text = ENGINE_FAILED.format(reason=neutralize(str(result)))
            replies[i] = replace(turns[i], information=text, error=str(result), fault=result.fault)
        else:
            shown = dict(information=format_hits(result), hits=tuple(result))
            replies[i] = replace(turns[i], **shown, engine=result.engine, fault=result.fault)
    return [replace(t, information=CORRECTION) if t.action == "malformed" else t for t in replies]


def pieces(policy: Policy, episode: Episode) -> Iterator[tuple[list[int], Turn | None]]:
    """An episode that was not sampled as the ids a rollout of it would record, in order.

    What the policy writes comes with its turn, the end of turn after an answer included (stopping is trained, too);
    what it reads comes with None.
    """
    yield policy.prompt_ids(list(episode.prompt)), None
    for number, turn in enumerate(episode.turns, start=1):
        answers = episode.outcome == "answered" and number == len(episode.turns)
        written = policy.encode(turn.text) + [policy.end_of_turn] * answers
        yield written, turn
        if turn.information is not None:
            yield policy.information_ids(turn.information, written), None


def _search(queries: list[str], engine: Engine, k: int, askers: list[Asker]) -> list:
    try:
        return engine.search(queries, k, askers) if queries else []
    except SearchError as error:
        if len(queries) == 1:
            return [error]
        one_by_one = zip(queries, askers, strict=True)
        return [result for query, asker in one_by_one for result in _search([query], engine, k, [asker])]


def _run(policy, engine, running, k, budget, temperature, generator, seconds) -> None:
    """Advance all episodes turn by turn until each has an outcome."""
    clock = perf_counter()
    generation = policy.start([state.prompt_ids for state in running], temperature, generator)
    active = running
    for number in range(1, budget.max_turns + 1):
        room = [budget.episode_tokens - len(state.ids) for state in active]
        sampled = generation.generate(min(budget.turn_tokens, max(room)))
        clock = _lap(seconds, "generation", clock)
        for state, ids, left in zip(active, sampled, room, strict=True):
            _take_turn(policy, state, ids[:left], last=number == budget.max_turns)
        going = [i for i, state in enumerate(active) if state.outcome is None]
        askers = [Asker(active[i].question.id, number) for i in going]
        replies = respond([active[i].turns[-1] for i in going], engine, k, askers)
        clock = _lap(seconds, "search", clock)
        kept, news = [], []
        for i, turn in zip(going, replies, strict=True):
            new = _append_reply(policy, active[i], turn, budget)
            if new is not None:
                kept.append(i)
                news.append(new)
        if not kept:
            return
        generation.extend(kept, news)
        active = [active[i] for i in kept]


def _take_turn(policy: Policy, state: _Running, ids: list[int], last: bool) -> None:
    """Record a sampled turn; an answer, a second malformed turn or the last turn ends the episode."""
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


def _append_reply(policy: Policy, state: _Running, turn: Turn, budget: Budget) -> list[int] | None:
    """Append the reply's ids with mask 0; None, and the end of the episode, when they do not fit the budget."""
    new = policy.information_ids(turn.information, state.ids)
    if len(state.ids) + len(new) >= budget.episode_tokens:
        state.outcome = "token_limit"
        return None
    state.turns[-1] = turn
    state.add(new, mask=0)
    return new


def _lap(seconds: dict[str, float], name: str, since: float) -> float:
    now = perf_counter()
    seconds[name] = seconds.get(name, 0.0) + now - since
    return now
