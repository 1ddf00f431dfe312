"""The rewards of the public ReZero code, to the letter, with its quirks, which the docstrings name.

They read the text of the assistant's turns; whether the environment replied is known from the episode, not from text.
"""

import re
from difflib import SequenceMatcher
from itertools import combinations, zip_longest

import difflib_fast

from rezero.judge import exact_match
from rezero.protocol import Episode, holds
from rezero.questions import Question

THINK, SEARCH, ANSWER, INFORMATION = (
    re.compile(rf"<{tag}>[\s\S]*?</{tag}>") for tag in ("think", "search", "answer", "information")
)
INFO_LIKE = re.compile(r"<info\w*>[\s\S]*?</info\w*>", re.IGNORECASE)
MARKDOWN_TAG = re.compile(r"(\*\*|\*|_)</?(?:think|search|answer|information|info)>\1")
PLAIN_THINK = re.compile(r"<think>([^<>]+)</think>")
PLAIN_SEARCH = re.compile(r"<search>([^<>]+)</search>")
PLAIN_ANSWER = re.compile(r"<answer>[^<>]+</answer>")
ANALYSIS_WORDS = frozenset("based according from result results found show shows provided information".split())
# A field with its value, a quoted phrase, OR and AND between words, and anything after a hyphen.
OPERATOR = re.compile("|".join((r"(?:site|filetype):\S+", r'"[^"]+"', r"\s+(?:OR|AND)\s+", r"-\w+")))


def correctness(episode: Episode) -> float:
    """1 for a correct answer in a last turn without a `<search>` or `<information>` pair, even in its thought, else 0.

    The original lets the model in training judge the whole message; here the words inside `<answer>` must equal an
    accepted answer (`judge.exact_match`), so no thought can persuade the judge. Also ours: an answer inside a thought,
    or after one that never closes, is none; and a user's words after the answer ("thanks") do not void it.
    """
    last = episode.turns[-1] if episode.turns else None
    if last is None or last.action != "answer" or last.information is not None:
        return 0.0
    if SEARCH.search(last.text) or INFORMATION.search(last.text):
        return 0.0
    return float(exact_match(last.argument, question_of(episode).answers))


def keeps_format(episode: Episode) -> float:
    """1 if the last assistant message keeps the format, else 0.

    The format: a `<think>` pair; exactly one `<answer>` pair or at least one `<search>` pair, not both, after the last
    `</think>` and at the end; no pair that looks like information; no tag wrapped in `**`, `*` or `_`. Quirks: ending
    with a search is worth as much as with an answer; two answers beside a search pass, but two answers alone do not.
    """
    text = episode.turns[-1].text if episode.turns else ""
    answers, searches = len(ANSWER.findall(text)) == 1, bool(SEARCH.search(text))
    if answers == searches or not THINK.search(text) or MARKDOWN_TAG.search(text) or INFO_LIKE.search(text):
        return 0.0
    action = text.find("<answer>" if answers else "<search>")
    return float(text.rfind("</think>") < action and text.strip().endswith(("</search>", "</answer>")))


def retry(episode: Episode) -> float:
    """`retry_always` if the last message has an answer, else 0 (the version of exp_02, and the last one published).

    Quirks: the first search is paid, too, and searches after a hit or before a wrong answer. Gamed by any five.
    """
    text = episode.turns[-1].text if episode.turns else ""
    return retry_always(episode) if ANSWER.search(text) else 0.0


def retry_always(episode: Episode) -> float:
    """The number of searches, paid however the episode ends (exp_01's version): 0, 0.35, 0.5, 0.65, 0.8 or 0.95.

    Halved when one message has several searches. The original rounds to 3 decimals, so the halves are 0.175, 0.25,
    0.325, 0.4 and 0.475. Gamed by searching until no turns are left.
    """
    counts = [len(SEARCH.findall(turn.text)) for turn in episode.turns]
    if not sum(counts):
        return 0.0
    value = min(1.0, 0.2 + min(sum(counts), 5) * 0.15)
    return round(value * 0.5 if max(counts) > 1 else value, 3)


def em_chunk(episode: Episode) -> float:
    """1 if the whole text of every gold chunk was retrieved, else 0, even without an answer (the headline run's)."""
    golds = _golds(episode)
    return float(bool(golds) and all(_retrieved(episode, *gold) for gold in golds))


def em_chunk_last(episode: Episode) -> float:
    """1 if the last paragraph of the last gold chunk was retrieved, else 0 (the later version).

    Quirk: a last paragraph may be as short as a heading ("7.1.6 Batteries"), which other chunks contain, too.
    """
    last = [(id, text.rstrip().rpartition("\n\n")[2].strip()) for id, text in _golds(episode)[-1:]]
    return float(any(_retrieved(episode, *gold) for gold in last))


def search_strategy(episode: Episode) -> float:
    """Search, analyse, conclude: [0, 1].

    0.2 if some message thinks and searches; 0.4 if some message analyses and answers; and after the first information
    0.2 per message that thinks and searches, or per message that analyses, whichever are fewer, at most 0.4.
    Quirks: to analyse is to use one of ten words in a thought ("based", "found", "from", ...), so filler words earn
    reward; what contains "<" or ">" does not count; nor do turns between a correction and the next information.
    Ours: information is what answers a search, whatever its text and role, so no passage can change the value.
    """
    informed = started = concluded = False
    refined = analysed = 0
    for turn in episode.turns:
        thoughts = PLAIN_THINK.findall(turn.text)
        if thoughts:
            searches = bool(PLAIN_SEARCH.search(turn.text))
            analyses = not ANALYSIS_WORDS.isdisjoint(re.findall(r"\w+", " ".join(thoughts).lower()))
            started |= searches
            concluded |= analyses and bool(PLAIN_ANSWER.search(turn.text))
            refined += informed and searches
            analysed += informed and analyses
        informed = informed if turn.information is None else turn.action == "search"
    return 0.2 * started + min(0.4, 0.2 * min(refined, analysed)) + 0.4 * concluded


def search_diversity(episode: Episode) -> float:
    """How different the queries are: 0 without a query, 0.2 for one, else the sum of these terms, clipped to [0, 1].

    - 0.2 per distinct normalized query, at most 0.4
    - 0.4 (1 - mean similarity of all pairs): difflib's ratio times max(0.3, 1 - 0.2 per operator that only one has)
    - 0.05 per distinct operator, at most 0.15, and 0.05 times the share of queries with an operator
    - minus 0.1 per pair with a ratio between 0.8 and 1 (0.05 from two operators on), and 0.2 per repetition
    Quirks: hyphens count as operators ("wake-up"), and operators are paid although the engine ignored them. Gamed by
    queries that differ from each other and ignore the question.
    """
    queries = [query for turn in episode.turns for query in PLAIN_SEARCH.findall(turn.text)]
    if len(queries) < 2:
        return 0.2 * len(queries)
    plain = [_without_operators(query) for query in queries]
    operators = [set(OPERATOR.findall(query)) for query in queries]
    used, distinct = set().union(*operators), len(set(plain))
    similar, scaled = 0, []
    for i, j in combinations(range(len(queries)), 2):
        ratio = similarity(plain[i], plain[j])
        similar += 0.8 < ratio < 1
        scaled.append(ratio * max(0.3, 1 - 0.2 * len(operators[i] ^ operators[j])))
    value = min(0.4, 0.2 * distinct) + 0.4 * (1 - sum(scaled) / len(scaled))
    value += min(0.15, 0.05 * len(used)) + 0.05 * sum(map(bool, operators)) / len(queries)
    value -= 0.1 * similar * (0.5 if len(used) >= 2 else 1) + 0.2 * (len(queries) - distinct)
    return max(0.0, min(1.0, value))


def _without_operators(query: str) -> str:
    lower = query.lower()  # first, as in the original, so that " OR " and " AND " stay as words
    return " ".join(re.sub(r"[^\w\s]", " ", OPERATOR.sub("", lower)).split())


def similarity(a: str, b: str) -> float:
    """The float of `difflib.SequenceMatcher(None, a, b).ratio()`, many times faster; it is not symmetric."""
    if len(b) < 200:
        return difflib_fast.ratio(a, b)
    return SequenceMatcher(None, a, b).ratio()  # from 200 characters on, difflib ignores frequent ones


def question_of(episode: Episode) -> Question:
    if episode.question is None:
        raise ValueError("this reward compares with a question's answers or gold chunks; the episode has no question")
    return episode.question


def _golds(episode: Episode) -> list[tuple[str, str]]:
    """(id, text) of every gold chunk; the text is "" where it is unknown and only the id can tell."""
    question = question_of(episode)
    return list(zip_longest(question.gold_chunk_ids, question.gold_texts, fillvalue=""))


def _retrieved(episode: Episode, chunk_id: str, text: str) -> bool:
    for turn in episode.turns:
        found = any(text in hit.text if text else hit.chunk_id == chunk_id for hit in turn.hits)
        if found or (not turn.hits and holds(turn.information or "", text)):
            return True
    return False
