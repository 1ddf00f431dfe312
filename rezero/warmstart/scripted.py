"""Scripted searchers: turns written by rules instead of a model, played against the real engines.

Policies learn the protocol from them (data/policy/train_policy.py and `rezero.warmstart`), and they serve as baselines
and as probes of rewards. A script is a function `(question, turns so far, rng) -> text of the next turn`.
"""

import random
import re
from collections.abc import Callable

import Stemmer

from rezero.protocol import Episode, Turn, build_prompt, neutralize, parse_turn
from rezero.questions import Question
from rezero.search.base import Engine, SearchContext
from rezero.search_env import respond
from rezero.text import keywords, normalized

Script = Callable[[Question, tuple[Turn, ...], random.Random], str]
Thought = Callable[[Question, tuple[Turn, ...], bool], str]  # the last argument: whether all gold passages were seen

FIRST, FOUND, MISSED = "look this up", "found:", "not found"
RETRY, GIVE_UP = "search again with other words", "give up"
UNKNOWN = "unknown"  # the answer of a searcher that gives up
MAX_QUOTE = 20  # words of a quote on either side of the answer
SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n{2,}")
_STEM = Stemmer.Stemmer("english").stemWord


def play(
    script: Script,
    questions: list[Question],
    engine: Engine,
    *,
    k: int,
    max_turns: int = 20,
    seed: int = 0,
    prompt_style: str = "short",
) -> list[Episode]:
    """One scripted episode per question. All episodes advance together, so that the engine gets batches of queries."""
    rng = random.Random(seed)
    turns: list[tuple[Turn, ...]] = [() for _ in questions]
    going = list(range(len(questions)))
    for number in range(1, max_turns + 1):
        new = [parse_turn(script(questions[i], turns[i], rng)) for i in going]
        contexts = [SearchContext(questions[i].id, number) for i in going]
        replies = respond(new, engine, k, contexts) if number < max_turns else new  # as in a rollout
        for i, turn in zip(going, replies, strict=True):
            turns[i] += (turn,)
        going = [i for i in going if turns[i][-1].action == "search"]
    outcomes = {"answer": "answered", "search": "turn_limit", "malformed": "malformed"}
    return [
        Episode(question, played, outcomes[played[-1].action], tuple(build_prompt(question.text, prompt_style)))
        for question, played in zip(questions, turns, strict=True)
    ]


def verdict_then_quote(question: Question, turns: tuple[Turn, ...], found: bool) -> str:
    """The verdict, then the quoted passage: the smallest policy learns to judge the passages as a whole."""
    return f"{FOUND} {quote(question, turns)}" if found else MISSED


def searcher(retry: float = 1.0, max_searches: int = 4, think: Thought = verdict_then_quote) -> Script:
    """A searcher that recognises the gold passages when it sees them; `think` writes what it thinks of the passages.

    It first searches for the question's words. Once it has seen all gold passages it answers. Otherwise it searches for
    its next rewrite (of `refine`, if the question has none) with probability `retry`, and else gives up.
    """

    def script(question: Question, turns: tuple[Turn, ...], rng: random.Random) -> str:
        if not turns:
            return say(FIRST, "search", keywords(question.text))
        if Episode(question, turns, "unfinished").evidence_search:
            return say(think(question, turns, True), "answer", question.answers[0])
        verdict = think(question, turns, False)
        rewrites = question.rewrites[len(turns) - 1 :] if question.rewrites else refine(question, turns)
        if rewrites and len(turns) < max_searches and rng.random() < retry:
            return say(f"{verdict}, {RETRY}", "search", rewrites[0])
        return say(f"{verdict}, {GIVE_UP}", "answer", UNKNOWN)

    return script


def say(thought: str, action: str, argument: str) -> str:
    """The text of a turn in the protocol's tags."""
    return f"<think> {thought} </think><{action}> {argument} </{action}>"


def refine(question: Question, turns: tuple[Turn, ...]) -> list[str]:
    """New queries made of words that the searcher has read, best first; none contains an answer.

    The first query uses hindsight: of the question's words, those that occur in the gold passages that are still
    unseen, and two more words per search so far that occur both there and in a retrieved passage, the longest first.
    The other queries drop more and more of the question's last words.
    """
    words = keywords(question.text).split()
    read = [hit for turn in turns for hit in turn.hits]
    seen = {hit.chunk_id for hit in read}
    golds = zip(question.gold_chunk_ids, question.gold_texts, strict=False)
    wanted = stems(" ".join(text for gold, text in golds if gold not in seen))
    new = wanted - stems(" ".join((question.text, *question.answers)))
    helpful = {}  # stem -> the word as it stands in the last passage that has it
    for hit in read:
        helpful |= {stem(word): word for word in keywords(hit.text).split() if stem(word) in new}
    longest = sorted(helpful.values(), key=len, reverse=True)
    hindsight = [word for word in words if stem(word) in wanted] + longest[: 2 * len(turns)]
    shortened = [words[:n] for n in range(len(words) - 1, 0, -1)]
    sent = {"", *(normalized(turn.argument) for turn in turns)}
    answers = [f" {normalized(answer)} " for answer in question.answers]
    queries = []
    for query in dict.fromkeys(map(" ".join, [hindsight, *shortened])):
        form = normalized(query)
        if form not in sent and not any(answer in f" {form} " for answer in answers):
            queries.append(query)
    return queries


def quote(question: Question, turns: tuple[Turn, ...]) -> str:
    """The last gold passage from the word that was asked about to the answer, or from the answer to that word.

    Quoting turns reading into copying: a small policy finds the word that it asked about and copies on from there. If
    the passage lacks the answer, the sentence that shares the most words with question and answer is quoted.
    """
    gold = question.gold_chunk_ids[-1]
    text = neutralize(next(hit.text for turn in turns for hit in turn.hits if hit.chunk_id == gold))
    asked = asked_stems(question)
    verbatim = re.escape(question.answers[0])
    whole_words = re.search(rf"(?<!\w){verbatim}(?!\w)", text, re.IGNORECASE)
    answer = whole_words or re.search(verbatim, text, re.IGNORECASE)
    if not answer:
        about = asked | stems(question.answers[0])
        best = max(SENTENCE_END.split(text), key=lambda sentence: len(stems(sentence) & about))
        return " ".join(best.split()[:MAX_QUOTE])
    before = SENTENCE_END.split(text[: answer.start()])[-1]
    after = SENTENCE_END.split(text[answer.end() :])[0]
    before = "".join(re.findall(r"\S+\s*", before)[-MAX_QUOTE:])
    after = "".join(re.findall(r"\s*\S+", after)[:MAX_QUOTE])
    asked_before, asked_after = _find_asked(before, asked), _find_asked(after, asked)
    if asked_after and not asked_before:
        return answer[0] + after[: asked_after.end()]
    return before[asked_before.start() if asked_before else 0 :] + answer[0]


def _find_asked(text: str, asked: set[str]) -> re.Match | None:
    return next((match for match in re.finditer(r"[a-z]{4,}", text) if stem(match[0]) in asked), None)


def asked_stems(question: Question) -> set[str]:
    return stems(" ".join((question.text, *question.rewrites)))


def stems(text: str) -> set[str]:
    return {stem(word) for word in keywords(text).split()}


def stem(word: str) -> str:
    return _STEM(word.lower())
