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
STEMMER = Stemmer.Stemmer("english")


def play(
    script: Script, questions: list[Question], engine: Engine, k: int, max_turns=20, seed=0, prompt_style="short"
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
    """The smallest policy learns to judge the passages as a whole, so the verdict comes first."""
    return f"{FOUND} {quote(question, turns)}" if found else MISSED


def searcher(retry: float = 1.0, max_searches: int = 4, think: Thought = verdict_then_quote) -> Script:
    """A searcher that recognises the gold passages when it sees them; `think` writes what it thinks of the passages.

    It searches for the question's words. Once it has seen all gold passages it answers. Otherwise it searches for its
    next rewrite (of `refine`, if the question has none) with probability `retry`, and else gives up.
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

    The first uses hindsight: the question's words that occur in the unseen gold passages, and two more words per search
    that occur both there and in a retrieved passage, the longest first. The others drop the last words.
    """
    words = keywords(question.text).split()
    read = [hit for turn in turns for hit in turn.hits]
    seen = {hit.chunk_id for hit in read}
    golds = zip(question.gold_chunk_ids, question.gold_texts, strict=False)
    wanted = stems(*(text for gold, text in golds if gold not in seen))
    new = wanted - stems(question.text, *question.answers)
    words_read = keywords(" ".join(hit.text for hit in read)).split()
    helpful = {stem(word): word for word in words_read if stem(word) in new}
    longest = sorted(helpful.values(), key=len, reverse=True)
    hindsight = [word for word in words if stem(word) in wanted] + longest[: 2 * len(turns)]
    shortened = [" ".join(words[:n]) for n in range(len(words) - 1, 0, -1)]
    sent = {"", *(normalized(turn.argument) for turn in turns)}
    answers = [f" {normalized(answer)} " for answer in question.answers]
    new_ones = [query for query in dict.fromkeys([" ".join(hindsight), *shortened]) if normalized(query) not in sent]
    return [query for query in new_ones if not any(answer in f" {normalized(query)} " for answer in answers)]


def quote(question: Question, turns: tuple[Turn, ...]) -> str:
    """The last gold passage from the word that was asked about to the answer, or from the answer to that word.

    A small policy can find the word and copy on from there. If the passage lacks the answer, it is the sentence that
    shares the most words with question and answer.
    """
    gold = question.gold_chunk_ids[-1]
    text = neutralize(next(hit.text for turn in turns for hit in turn.hits if hit.chunk_id == gold))
    asked, verbatim = stems(question.text, *question.rewrites), re.escape(question.answers[0])
    found = [re.search(form, text, re.IGNORECASE) for form in (rf"(?<!\w){verbatim}(?!\w)", verbatim)]
    answer = found[0] or found[1]
    if not answer:
        about = asked | stems(question.answers[0])
        best = max(SENTENCE_END.split(text), key=lambda sentence: len(stems(sentence) & about))
        return " ".join(best.split()[:MAX_QUOTE])
    before, after = SENTENCE_END.split(text[: answer.start()])[-1], SENTENCE_END.split(text[answer.end() :])[0]
    before = "".join(re.findall(r"\S+\s*", before)[-MAX_QUOTE:])
    after = "".join(re.findall(r"\s*\S+", after)[:MAX_QUOTE])
    starts = [match.start() for match in re.finditer(r"[a-z]{4,}", before) if stem(match[0]) in asked]
    ends = [match.end() for match in re.finditer(r"[a-z]{4,}", after) if stem(match[0]) in asked]
    if ends and not starts:
        return answer[0] + after[: ends[0]]
    return before[starts[0] if starts else 0 :] + answer[0]


def stems(*texts: str) -> set[str]:
    return {stem(word) for word in keywords(" ".join(texts)).split()}


def stem(word: str) -> str:
    return STEMMER.stemWord(word.lower())
