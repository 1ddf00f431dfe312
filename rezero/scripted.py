"""Scripted searchers: turns written by rules instead of a model, played against the real engines.

They teach the laptop policy the protocol (`warmstart.py`) and serve as baselines and as probes of a reward. A script is
a function `(question, turns so far, rng) -> text of the next turn`.
"""

import random
import re
from collections import defaultdict
from collections.abc import Callable

import Stemmer

from rezero.config import Config
from rezero.protocol import Episode, Turn, build_prompt, neutralize, parse_turn
from rezero.questions import Question, keywords, normalized
from rezero.rollout import respond
from rezero.search import Asker, Engine

Script = Callable[[Question, tuple[Turn, ...], random.Random], str]
Thought = Callable[[Question, tuple[Turn, ...], bool], str]  # the last: whether the evidence was seen

FIRST, FOUND, HIT, MISSED = "look this up", "found:", "found", "not found"
RETRY, GIVE_UP = "search again with other words", "give up"
UNKNOWN = "unknown"
LONGEST, GLANCE, ASKED = 20, 10, 10  # words of a quote, less the answer; of a quote after a miss; of what was asked
SENTENCE = re.compile(r"(?<=[.!?])\s+|\n{2,}")
STEM = Stemmer.Stemmer("english").stemWord


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
    """One scripted episode a question; all episodes advance together, so that the engine is asked in batches."""
    rng = random.Random(seed)
    turns: list[tuple[Turn, ...]] = [() for _ in questions]
    going = list(range(len(questions)))
    for number in range(1, max_turns + 1):
        new = [parse_turn(script(questions[i], turns[i], rng)) for i in going]
        askers = [Asker(questions[i].id, number) for i in going]
        replies = respond(new, engine, k, askers) if number < max_turns else new
        for i, turn in zip(going, replies, strict=True):
            turns[i] += (turn,)
        going = [i for i in going if turns[i][-1].action == "search"]
        if not going:
            break
    outcomes = {"answer": "answered", "search": "turn_limit", "malformed": "malformed"}
    return [
        Episode(q, t, outcomes[t[-1].action], tuple(build_prompt(q.text, prompt_style)))
        for q, t in zip(questions, turns, strict=True)
    ]


def play_searcher(questions: list[Question], engine: Engine, config: Config, retry: float = 1.0) -> list[Episode]:
    """`play` with a `searcher` under the budgets of `config`, whose last turn is left for an answer."""
    return play(
        searcher(retry, config.max_turns - 1, weighing(questions) if config.warm_start_quotes else judge_only),
        questions,
        engine,
        k=config.k,
        max_turns=config.max_turns,
        seed=config.seed,
        prompt_style=config.prompt_style,
    )


def found_at_once(questions: list[Question], engine: Engine, config: Config) -> list[bool]:
    """Of each question whether a search for its own words brings all of its evidence."""
    return [episode.evidence_search == 1 for episode in play_searcher(questions, engine, config, retry=0.0)]


def judge_first(question: Question, turns: tuple[Turn, ...], found: bool) -> str:
    """The verdict, then the quote: what the smallest policy learns to tell from the passages as a whole."""
    return f"{FOUND} {quote(question, turns)}" if found else MISSED


def judge_only(question: Question, turns: tuple[Turn, ...], found: bool) -> str:
    """The verdict alone, for passages whose answers are too long to quote on the way to them."""
    return HIT if found else MISSED


def weighing(questions: list[Question]) -> Thought:
    """What was asked, a fact of the passages with the title it stands under, then whether the one tells the other.

    A language model that judged first called everything found. After a miss the fact is the one among those that
    others of `questions` ask for which comes nearest to what was asked, so that neither its form nor its choice gives
    the verdict away; `nearest`, where there is none.
    """
    about = defaultdict(list)
    for other in questions:
        about[other.gold_chunk_ids[-1]].append(other)

    def think(question: Question, turns: tuple[Turn, ...], found: bool) -> str:
        wanted = _asked(question)
        told = [other for hit in turns[-1].hits for other in about[hit.chunk_id] if other.answers != question.answers]
        source = question if found else max(told, key=lambda other: len(wanted & _stems(other.text)), default=None)
        gold = source and source.gold_chunk_ids[-1]
        title = next((f"{h.title} | " for turn in turns for h in turn.hits if h.chunk_id == gold and h.title), "")
        said = quote(source, turns) if source else nearest(question, turns[-1])
        asked = " ".join(keywords(question.text).split()[:ASKED])
        return f"{asked}? {title}{said}: {HIT if found else MISSED}"

    return think


def searcher(retry: float = 1.0, max_searches: int = 4, think: Thought = judge_first) -> Script:
    """A searcher that knows the gold evidence when it sees it.

    It first searches the question's words; after a miss it writes its next rewrite (`refine`, if the question has none)
    with probability `retry` and otherwise gives up; with the evidence it answers. `think` words what it makes of the
    passages. `retry=1` is the scripted always-retry baseline.
    """

    def script(question: Question, turns: tuple[Turn, ...], rng: random.Random) -> str:
        if not turns:
            return say(FIRST, "search", keywords(question.text))
        if Episode(question, turns, "unfinished").evidence_search:
            return say(think(question, turns, True), "answer", question.answers[0])
        missed = think(question, turns, False)
        rewrites = question.rewrites[len(turns) - 1 :] if question.rewrites else refine(question, turns)
        if rewrites and len(turns) < max_searches and rng.random() < retry:
            return say(f"{missed}, {RETRY}", "search", rewrites[0])
        return say(f"{missed}, {GIVE_UP}", "answer", UNKNOWN)

    return script


def refine(question: Question, turns: tuple[Turn, ...]) -> list[str]:
    """New queries out of words that the searcher has read, best first; none holds an answer.

    The first is hindsight: the question's words less those that the missing gold passage lacks, and with every miss two
    more words that stand in it and in a passage that came back, the longest first. The others drop more and more of
    the question's last words.
    """
    words = keywords(question.text).split()
    read = [hit for turn in turns for hit in turn.hits]
    known = {hit.chunk_id for hit in read}
    golds = zip(question.gold_chunk_ids, question.gold_texts, strict=False)
    wanted = _stems(" ".join(text for gold, text in golds if gold not in known))
    said = _stems(" ".join((question.text, *question.answers)))
    seen = {STEM(word.lower()): word for hit in read for word in keywords(hit.text).split()}
    more = sorted((word for stem, word in seen.items() if stem in wanted - said), key=len, reverse=True)
    queries = [[word for word in words if STEM(word.lower()) in wanted] + more[: 2 * len(turns)]]
    queries += [words[:n] for n in range(len(words) - 1, 0, -1)]
    asked, answers = {"", *(normalized(turn.argument) for turn in turns)}, [normalized(a) for a in question.answers]
    new = {query: normalized(query) for query in map(" ".join, queries)}
    return [q for q, n in new.items() if n not in asked and not any(f" {a} " in f" {n} " for a in answers)]


def quote(question: Question, turns: tuple[Turn, ...]) -> str:
    """The words of the gold passage from the one that tells what was asked to the answer, in their order.

    Quoting turns reading into copying: a small policy finds the word it asked about and goes on from there. The word
    is one of the question or of its rewrites, by its stem. A passage that lacks the answer, whatever its case, is
    quoted by the sentence with the most words of question and answer.
    """
    answer, gold = question.answers[0], question.gold_chunk_ids[-1]
    text = neutralize(next(h.text for turn in turns for h in turn.hits if h.chunk_id == gold))
    asked, verbatim = _asked(question), re.escape(answer)
    finds = (re.search(pattern, text, re.IGNORECASE) for pattern in (rf"(?<!\w){verbatim}(?!\w)", verbatim))
    found = next(filter(None, finds), None)
    if not found:
        about = asked | _stems(answer)
        best = max(SENTENCE.split(text), key=lambda sentence: len(_stems(sentence) & about))
        return " ".join(best.split()[:LONGEST])
    lead, rest = SENTENCE.split(text[: found.start()])[-1], SENTENCE.split(text[found.end() :])[0]
    lead = "".join(re.findall(r"\S+\s*", lead)[-LONGEST:])
    rest = "".join(re.findall(r"\s*\S+", rest)[:LONGEST])
    before, after = ([m for m in re.finditer(r"[a-z]{4,}", part) if STEM(m[0]) in asked] for part in (lead, rest))
    if after and not before:
        return found[0] + rest[: after[0].end()]
    return lead[before[0].start() if before else 0 :] + found[0]


def nearest(question: Question, turn: Turn) -> str:
    """At most `GLANCE` words of a turn's passages, from the first asked word of the sentence that has the most."""
    asked = _asked(question)
    sentences = [sentence.split() for hit in turn.hits for sentence in SENTENCE.split(neutralize(hit.text))]
    if not sentences:
        return "nothing"
    best = max(sentences, key=lambda words: len(_stems(" ".join(words)) & asked))
    start = next((i for i, word in enumerate(best) if _stems(word) & asked), 0)
    start = max(0, min(start, len(best) - GLANCE))
    return " ".join(best[start : start + GLANCE]).rstrip(".,;")


def _asked(question: Question) -> set[str]:
    return _stems(" ".join((question.text, *question.rewrites)))


def _stems(text: str) -> set[str]:
    return {STEM(word.lower()) for word in keywords(text).split()}


def say(thought: str, action: str, argument: str) -> str:
    return f"<think> {thought} </think><{action}> {argument} </{action}>"
