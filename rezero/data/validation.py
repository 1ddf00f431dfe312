"""Checks of questions: rules that refuse one, each with its reason, and how hard a question is for the engines.

A rule is a function of a candidate and of what was accepted before it; it returns what is wrong, or "".
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import pandas as pd

from rezero.corpus import Chunk
from rezero.judge import normalize
from rezero.questions import Question
from rezero.search import build_engine
from rezero.text import keywords, normalized

# Phrases that mean something only to a reader who has the passage before them.
DEICTIC = re.compile(
    r"\b(?:this|these|those|above|below|aforementioned|here|(?:said|given|same) (?:mission|flight|report|passage)|"
    r"the (?:report|passage|text|document|article|chunk|sentence))\b",
    re.IGNORECASE,
)
SIGN = re.compile(r"[-+#*=<>]*$")  # at the end of an answer
NEARLY = 0.8  # two questions with one answer are duplicates if they share so much of their words (Jaccard)
MANY = 5  # an answer that stands in more passages is marked as ambiguous
MARKS = ("ambiguous", "trivial", "impossible")
ENGINES = ("bm25", "dense", "hybrid")  # by which difficulty is measured
DEPTH = 100  # passages per engine among which the gold one is looked for


@dataclass(frozen=True)
class Candidate:
    """A question that is to be checked, with what its writer said about it."""

    question: Question
    support: str | None = None  # the sentence of the last gold passage that has the answer; None: nobody named one
    bridge: str = ""  # the name that leads from the first passage of a two-hop question to the second


class Known:
    """The corpus, and what the accepted questions hold."""

    def __init__(self, chunks: Iterable[Chunk]):
        self.texts = {chunk.id: chunk.text for chunk in chunks}
        self.ids: set[str] = set()
        self.by_text: dict[str, str] = {}
        self.by_answer: dict[str, list[tuple[str, set[str]]]] = defaultdict(list)  # normal form -> id, words
        self.written: dict[str, str] = {}  # normal form of an answer -> the answer, as it was first written

    def add(self, question: Question) -> None:
        self.ids.add(question.id)
        self.by_text.setdefault(normalized(question.text), question.id)
        self.by_answer[_form(question)].append((question.id, _words(question)))
        for answer in question.answers:
            self.written.setdefault(normalize(answer), answer)


def _form(question: Question) -> str:
    return normalize(question.answers[0]) if question.answers else ""


def _words(question: Question) -> set[str]:
    return set(keywords(question.text).lower().split())


def deictic(one: Candidate, known: Known) -> str:
    found = DEICTIC.search(one.question.text)
    return f"deictic: {found[0]!r}" if found else ""


def empty_answer(one: Candidate, known: Known) -> str:
    answers = one.question.answers
    return "" if answers and all(map(normalize, answers)) else "empty answer"


def answer_in_question(one: Candidate, known: Known) -> str:
    answer, text = _form(one.question), f" {normalize(one.question.text)} "
    return f"answer {one.question.answers[0]!r} occurs in the question" if answer and f" {answer} " in text else ""


def gold_unknown(one: Candidate, known: Known) -> str:
    golds = one.question.gold_chunk_ids
    unknown = [gold for gold in golds if gold not in known.texts]
    return f"unknown gold chunk {unknown[0]!r}" if unknown else "" if golds else "no gold chunk"


def answer_not_in_gold(one: Candidate, known: Known) -> str:
    gold, answers = one.question.gold_chunk_ids[-1:], one.question.answers[:1]
    missing = gold and answers and answers[0] not in known.texts.get(gold[0], answers[0])
    return f"answer {answers[0]!r} is not in {gold[0]}" if missing else ""


def support_not_verbatim(one: Candidate, known: Known) -> str:
    if one.support is None:
        return ""
    text = " ".join(known.texts.get(one.question.gold_chunk_ids[-1], "").split())
    support = " ".join(one.support.split())
    if not support or support not in text:
        return f"the sentence {support[:60]!r} is not in {one.question.gold_chunk_ids[-1]}"
    return "" if one.question.answers[0] in support else "the sentence lacks the answer"


def bridge_named(one: Candidate, known: Known) -> str:
    named = one.bridge and normalized(one.bridge) in normalized(one.question.text)
    return f"names {one.bridge!r}, so that one passage suffices" if named else ""


def id_repeated(one: Candidate, known: Known) -> str:
    return "its id was used before" if one.question.id in known.ids else ""


def same_text(one: Candidate, known: Known) -> str:
    same = known.by_text.get(normalized(one.question.text))
    return f"same text as {same}" if same else ""


def near_duplicate(one: Candidate, known: Known) -> str:
    words = _words(one.question)
    alike = (
        id for id, other in known.by_answer[_form(one.question)] if len(words & other) >= NEARLY * len(words | other)
    )
    near = next(alike, "")
    return f"nearly the same as {near}" if near and not same_text(one, known) else ""


def answers_collide(one: Candidate, known: Known) -> str:
    """The judge could not tell the answer from that of another question, because it drops the sign at its end."""
    for answer in one.question.answers:
        other = known.written.get(normalize(answer), answer)
        if SIGN.search(answer.strip(" .,"))[0] != SIGN.search(other.strip(" .,"))[0]:
            return f"exact match takes the answer {answer!r} for {other!r}"
    return ""


RULES = (
    deictic, empty_answer, answer_in_question, gold_unknown, answer_not_in_gold, support_not_verbatim, bridge_named,
    id_repeated, same_text, near_duplicate, answers_collide,
)  # fmt: skip


def check(candidates: Iterable[Candidate], known: Known) -> Iterator[tuple[Candidate, dict[str, str]]]:
    """Each candidate with the rules that it breaks and why; one that breaks none becomes known to the next."""
    for one in candidates:
        reasons = {rule.__name__: rule(one, known) for rule in RULES}
        broken = {name: why for name, why in reasons.items() if why}
        if not broken:
            known.add(one.question)
        yield one, broken


def validate(questions: Iterable[Question], chunks: Iterable[Chunk]) -> list[str]:
    """One line per problem, which begins with the id of its question; an empty list for a sound set.

    Near duplicates, of which even the shipped set has four, are no problem here; `check` refuses them.
    """
    checked = check(map(Candidate, questions), Known(chunks))
    pairs = ((one.question.id, broken) for one, broken in checked)
    return [f"{id}: {why}" for id, broken in pairs for rule, why in broken.items() if rule != near_duplicate.__name__]


def rule_table(broken: Iterable[Iterable[str]], marks: Iterable[Iterable[str]] = ()) -> pd.DataFrame:
    """How many questions break each rule and carry each mark, a row each; the arguments have the names per question."""
    rows = []
    for what, groups, known in (("refused", broken, [rule.__name__ for rule in RULES]), ("marked", marks, MARKS)):
        counts = Counter(dict.fromkeys(known, 0))
        counts.update(name for names in groups for name in names)
        rows += [{"rule": name.replace("_", " "), "questions": n, "what": what} for name, n in counts.items()]
    return pd.DataFrame(rows).set_index("rule")


def difficulty(questions: Sequence[Question], chunks: Sequence[Chunk], engines=ENGINES) -> list[dict]:
    """Per question the rank of its gold passage by engine, the passages with its answer, and its marks.

    The query is the question's words. Of several gold passages the one that is found last counts; None is beyond
    `DEPTH`. Marks: "trivial" is first with every engine, "impossible" is found by none, "ambiguous" has an answer that
    stands in more than `MANY` passages.
    """
    queries = [keywords(question.text) or question.text for question in questions]
    found = [build_engine(name, chunks).search(queries, DEPTH) for name in engines]
    texts, rows = [f" {normalized(chunk.text)} " for chunk in chunks], []
    for question, *hits in zip(questions, *found, strict=True):
        ranks = [_rank(question, [hit.chunk_id for hit in some]) for some in hits]
        answer = f" {normalized(question.answers[0])} "
        holders = sum(answer in text for text in texts)
        says = (holders > MANY, {*ranks} == {len(question.gold_chunk_ids)}, {*ranks} == {None})
        marks = [mark for mark, holds in zip(MARKS, says, strict=True) if holds]
        by_engine = dict(zip(engines, ranks, strict=True))
        rows.append({"id": question.id, "ranks": by_engine, "passages_with_answer": holders, "marks": marks})
    return rows


def _rank(question: Question, ids: list[str]) -> int | None:
    golds = question.gold_chunk_ids
    return max(map(ids.index, golds)) + 1 if golds and set(golds) <= set(ids) else None
