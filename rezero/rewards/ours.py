"""Rewards that are not in the public ReZero code. A docstring says what is paid, its range and how it can be gamed."""

from itertools import pairwise

from rezero import judge
from rezero.protocol import Episode
from rezero.rewards.published import correctness, question_of


def retry_paper(episode: Episode) -> float:
    """The paper's wording: 0.25, at most 1, for each search after the first that follows a miss; only with an answer.

    Any search but the last can miss here: it brought no new gold while some was unseen. Gamed by missing on purpose.
    """
    if episode.outcome != "answered":
        return 0.0
    seen = [0.0, *episode.evidence()]
    return min(1.0, 0.25 * sum(before == now < 1 for before, now in pairwise(seen[:-1])))


def recovery(episode: Episode, discount: float = 1.0) -> float:
    """Potential-based reward for finding the evidence, however late: [0, 1], only with an answer, right or wrong.

    The potential is the share of gold chunks seen. Each search earns what it adds to that share, times `discount` for
    every search before it, so the sum is the share seen in the end (Ng, Harada and Russell 1999). No search can game it
    but by finding gold. With a `discount` below 1, finding late earns less; but group scaling divides by the standard
    deviation, so where all episodes are correct and find the gold, values of 0.9 and 1 would differ as much as 0 and 1,
    and teach not to retry.
    """
    if episode.outcome != "answered":
        return 0.0
    seen = [0.0, *episode.evidence()]
    gains = [now - before for before, now in pairwise(seen)]
    return float(sum(gain * discount**searches for searches, gain in enumerate(gains)))


def evidence(episode: Episode) -> float:
    """The share of gold chunks seen, [0, 1], also without an answer: an episode that only searches is paid."""
    return max(episode.evidence(), default=0.0)


def exact_match(episode: Episode) -> float:
    """1 if the final answer equals an accepted one after `judge.normalize`, else 0, whatever the turn's format."""
    return float(judge.exact_match(episode.answer, question_of(episode).answers))


def f1(episode: Episode) -> float:
    """Word overlap of the final answer with the closest accepted one, [0, 1]. Gamed by answers of many words."""
    return judge.f1(episode.answer, question_of(episode).answers)


def graded(episode: Episode) -> float:
    """Correctness with partial credit, [0, 1]: 1 for a correct answer in a clean turn, else at most 0.5.

    A wrong answer earns 0.25 times its F1 and 0.25 times the share of gold seen. Gamed by answers of likely words.
    """
    if episode.outcome != "answered":
        return 0.0
    return correctness(episode) or 0.25 * f1(episode) + 0.25 * evidence(episode)


def efficiency(episode: Episode) -> float:
    """1 / (1 + searches after the evidence) for a correct answer that rests on the evidence, else 0: [0, 1].

    Searches before the evidence cost nothing, so that stopping never beats retrying.
    """
    found = episode.evidence_search
    return exact_match(episode) / (1 + len(episode.searches) - found) if found else 0.0


def clip_to_solved(values: list[float], episodes: list[Episode]) -> list[float]:
    """`values`, capped at 0 where no episode on the same question is correct; nothing is learned of searching there."""
    solved = {episode.question.id for episode in episodes if correctness(episode)}
    return [value if e.question.id in solved else min(0.0, value) for value, e in zip(values, episodes, strict=True)]
