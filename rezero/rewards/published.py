"""The rewards of the public ReZero code, to the letter: pure functions `Episode -> float`, named in `rewards.REWARDS`.

Their quirks are kept and told in each docstring. They read the text of the assistant's turns; whether a turn was
answered by the environment is read from the structure of the episode, never from what a passage says.
"""

import re
from difflib import SequenceMatcher
from itertools import combinations

import difflib_fast

from rezero.judge import exact_match
from rezero.protocol import Episode, Turn, holds
from rezero.questions import Question

THINK = re.compile(r"<think>[\s\S]*?</think>")

SEARCH = re.compile(r"<search>[\s\S]*?</search>")

ANSWER = re.compile(r"<answer>[\s\S]*?</answer>")

INFORMATION = re.compile(r"<information>[\s\S]*?</information>")

INFO_LIKE = re.compile(r"<info\w*>[\s\S]*?</info\w*>", re.IGNORECASE)

MARKDOWN_TAG = re.compile(r"(\*\*|\*|_)</?(?:think|search|answer|information|info)>\1")


def correctness(episode: Episode) -> float:
    """1 for a right answer in a clean last turn, else 0.

    Clean: the last message is the assistant's and holds an `<answer>` pair and no `<search>` or `<information>`
    pair, not even in its thought. The original lets the trained model judge the whole message; here the words inside
    `<answer>` must equal an accepted answer (`judge.exact_match`), so that no thought can talk the judge round.
    """
    last = _last(episode)
    if last is None or last.action != "answer" or last.information is not None:
        return 0.0
    if SEARCH.search(last.text) or INFORMATION.search(last.text):
        return 0.0
    return float(exact_match(last.argument, question_of(episode).answers))


def format(episode: Episode) -> float:
    """1 if the last assistant message keeps the format, else 0.

    At least one `<think>` pair; exactly one `<answer>` pair or at least one `<search>` pair, not both; the last
    `</think>` before the first action; no information-like pair; no tag wrapped in `**`, `*` or `_`; ends in
    `</search>` or `</answer>`. Quirks: only the last message counts, so that every earlier turn may be malformed;
    ending on a search is as good as ending on an answer; two answers beside a search pass, two answers alone do not.
    """
    last = _last(episode)
    if last is None or MARKDOWN_TAG.search(last.text) or INFO_LIKE.search(last.text):
        return 0.0
    text = last.text
    answers, searches = len(ANSWER.findall(text)) == 1, bool(SEARCH.search(text))
    if answers == searches or not THINK.search(text):
        return 0.0
    action = text.find("<answer>" if answers else "<search>")
    return float(text.rfind("</think>") < action and text.strip().endswith(("</search>", "</answer>")))


def retry(episode: Episode) -> float:
    """`retry_always` of an episode whose last message holds an answer, else 0 (exp_02's version, and the last one).

    Quirks: the first search is paid, too, nothing asks whether a search had failed, and the answer need not be right.
    Gamed by five searches of anything.
    """
    last = _last(episode)
    return retry_always(episode) if last is not None and ANSWER.search(last.text) else 0.0


def retry_always(episode: Episode) -> float:
    """The number of searches, paid whatever the episode ends in (exp_01's version): 0, .35, .5, .65, .8, .95.

    Halved when one message holds several searches; rounded to 3 decimals, as the original does, so that the halves
    are .175 .25 .325 .4 .475. Gamed by searching until the turns are over.
    """
    counts = [len(SEARCH.findall(turn.text)) for turn in episode.turns]
    if not sum(counts):
        return 0.0
    value = min(1.0, 0.2 + min(sum(counts), 5) * 0.15)
    return round(value * 0.5 if max(counts) > 1 else value, 3)


def em_chunk(episode: Episode) -> float:
    """1 if every gold chunk was retrieved, whole, in some search, else 0 (the headline run's version).

    Quirk: paid without an answer. The original knows one gold chunk a question; a two-hop question needs both.
    """
    question = question_of(episode)
    golds = zip(question.gold_chunk_ids, _gold_texts(question), strict=True)
    return float(bool(question.gold_chunk_ids) and all(_shown(episode, *gold) for gold in golds))


def em_chunk_last(episode: Episode) -> float:
    """1 if the last paragraph of the last gold chunk was retrieved, else 0 (the later version).

    Quirk: a last paragraph can be as short as a heading ("7.1.6 Batteries") and then occurs in other chunks.
    """
    question = question_of(episode)
    if not question.gold_chunk_ids:
        return 0.0
    paragraphs = [part.strip() for part in _gold_texts(question)[-1].split("\n\n") if part.strip()]
    return float(_shown(episode, question.gold_chunk_ids[-1], paragraphs[-1] if paragraphs else ""))


PLAIN_THINK = re.compile(r"<think>([^<>]+)</think>")

PLAIN_SEARCH = re.compile(r"<search>([^<>]+)</search>")

PLAIN_ANSWER = re.compile(r"<answer>[^<>]+</answer>")

ANALYSIS_WORDS = frozenset("based according from result results found show shows provided information".split())


def search_strategy(episode: Episode) -> float:
    """Search, analyse, conclude: [0, 1].

    .2 if some message thinks and searches; + .2, at most .4, for each of min(messages that think and search,
    messages that analyse) after the first information; + .4 if some message analyses and answers. To analyse is to
    have one of ten words in the thought ("based", "found", "from", …), so filler words are paid. A thought, query
    or answer with a `<` or `>` in it does not count. The original also discards information with such a character;
    here no passage can change the value.
    """
    started = concluded = informed = False
    refined = analysed = 0
    for turn in episode.turns:
        if thoughts := PLAIN_THINK.findall(turn.text):
            searches = bool(PLAIN_SEARCH.search(turn.text))
            analyses = not ANALYSIS_WORDS.isdisjoint(re.findall(r"\w+", " ".join(thoughts).lower()))
            started |= searches
            concluded |= analyses and bool(PLAIN_ANSWER.search(turn.text))
            refined += informed and searches
            analysed += informed and analyses
        informed |= turn.information is not None
    return 0.2 * started + min(0.4, 0.2 * min(refined, analysed)) + 0.4 * concluded


# A field and its value, a quoted phrase, OR and AND between words, and anything after a hyphen.
OPERATOR = re.compile("|".join((r"(?:site|filetype):\S+", r'"[^"]+"', r"\s+(?:OR|AND)\s+", r"-\w+")))


def search_diversity(episode: Episode) -> float:
    """How different the queries of all messages are: 0 without a query, .2 for one, else clipped to [0, 1].

    min(.4, .2 U) + .4 (1 - mean similarity of pairs) + min(.15, .05 distinct operators) + .05 share of queries with
    an operator - .1 S (halved from two operators on) - .2 D, where U counts distinct normalised queries, S the pairs
    with a similarity in (.8, 1) and D the repetitions; similarity is difflib's ratio of the normalised queries, in
    the mean multiplied by max(.3, 1 - .2 per operator that only one of the two has).
    Quirks: hyphens count as operators ("wake-up"), "site:" and quotes are paid though the engine ignored them, and
    "OR" leaves an "or" behind. Gamed by queries that differ and have nothing to do with the question.
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
    """Lower case first, so that " OR " and " AND " stay as words: the original's order."""
    return " ".join(re.sub(r"[^\w\s]", " ", OPERATOR.sub("", query.lower())).split())


def similarity(a: str, b: str) -> float:
    """`difflib.SequenceMatcher(None, a, b).ratio()`, the same float, many times faster; not symmetric.

    An edit distance's ratio (rapidfuzz) is another number; `difflib_fast` is Ratcliff and Obershelp (1988) with
    difflib's ties.
    """
    if len(b) < 200:
        return difflib_fast.ratio(a, b)
    return SequenceMatcher(None, a, b).ratio()  # from here on difflib ignores frequent characters


def _last(episode: Episode) -> Turn | None:
    return episode.turns[-1] if episode.turns else None


def question_of(episode: Episode) -> Question:
    if episode.question is None:
        raise ValueError("this reward compares with a question's answers or gold chunks; the episode has no question")
    return episode.question


def _gold_texts(question: Question) -> tuple[str, ...]:
    """One text a gold chunk, "" where it is unknown and only the chunk's id can tell."""
    return question.gold_texts or ("",) * len(question.gold_chunk_ids)


def _shown(episode: Episode, chunk_id: str, text: str) -> bool:
    """Whether `text` stood in what some search brought; by the chunk's id where `text` is unknown ("")."""
    for turn in episode.turns:
        if turn.hits:
            if any(text in hit.text if text else hit.chunk_id == chunk_id for hit in turn.hits):
                return True
        elif holds(turn.information or "", text):
            return True
    return False
