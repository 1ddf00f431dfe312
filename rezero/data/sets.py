"""Importers of public sets of questions: a function per shape, which takes one record and yields what is in it."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import wraps

from rezero.corpus import Chunk, find_chunks
from rezero.data.chunking import Cut, spans, stable_id
from rezero.data.records import Dropped, Items, Row, Source, file_rows, split_of
from rezero.data.shapes import csv_rows, jsonl_rows, parse_chunk, read_chunks
from rezero.questions import Question, load_questions
from rezero.text import clean

WHOLE = 4  # a set's passage stays whole up to so many times the size; SQuAD's do, the papers of COVID-QA are cut
Found = Iterator[Chunk | Question | Dropped]


def each(read: Callable[[Row, Cut], Found]) -> Callable[[Source, Cut], Items]:
    """The importer of a set from that of a record; a record of another shape is dropped with what is wrong in it."""

    @wraps(read)
    def read_all(source: Source, cut: Cut) -> Items:
        for row in source.rows():
            try:
                for item in read(row, cut):
                    yield row.where, item
            except (LookupError, TypeError, AttributeError, ValueError) as error:
                why = f"{error} is missing" if isinstance(error, KeyError) else str(error)
                yield row.where, Dropped(f"another shape: {why:.150}", {"fields": list(row.fields)})

    return read_all


def asked(row: Row, fields: dict, answers: list, golds: list[str]) -> Question | Dropped:
    """The question of a record, or why it is none. The first answer is to stand in the last gold passage.

    A question without an id gets one that depends on its text.
    """
    text, id = fields.get("question") or fields.get("text") or "", fields.get("id", fields.get("_id"))
    answers = dict.fromkeys(str(answer).strip() for answer in answers if answer is not None)
    answers = tuple(filter(None, answers))
    if not text.strip() or not answers:
        return Dropped("no answer" if text.strip() else "the question is empty", {"id": str(id), "question": text})
    id = stable_id(text, *answers) if id is None else str(id)
    kind = "two-hop" if len(golds) > 1 else "direct"
    return Question(id, text.strip(), answers, tuple(golds), kind=kind, split=row.split or "train")


@each
def squad(row: Row, cut: Cut) -> Found:
    """An article of SQuAD 1 or 2, XQuAD or COVID-QA, or a row with one question, as the hub has them.

    An answer's offset finds its passage. Where the offset is wrong, as in a sixth of COVID-QA, the nearest occurrence
    of the answer counts.
    """
    title = row.fields.get("title") or ""
    for paragraph in row.fields.get("paragraphs") or [row.fields | {"qas": [row.fields]}]:
        text = clean(paragraph["context"])
        whole = cut.length(text) <= WHOLE * cut.size
        places = {stable_id(title, text[a:b]): (a, b) for a, b in ([(0, len(text))] if whole else spans(text, cut))}
        yield from (Chunk(id, title, text[a:b]) for id, (a, b) in places.items())
        for fields in paragraph["qas"]:
            given = fields.get("answers") or []
            if isinstance(given, dict):  # the columns of the hub
                given = [dict(zip(given, values, strict=True)) for values in zip(*given.values(), strict=True)]
            starts = {one["text"].strip(): _nearest(text, one["text"].strip(), one["answer_start"]) for one in given}
            answers = [answer for answer, start in starts.items() if answer and start >= 0]
            golds = [
                id
                for answer in answers
                for id, (a, b) in places.items()
                if a <= starts[answer] and starts[answer] + len(answer) <= b
            ]
            if fields.get("is_impossible") or not given:
                yield Dropped("unanswerable", fields | {"passages": list(places)})
            elif not golds:
                why = "the answer goes over the end of a passage" if answers else "the answer is not in its passage"
                yield Dropped(why, fields | {"passages": list(places)})
            else:
                yield asked(row, fields, answers, golds[:1])


def _nearest(text: str, part: str, start: int) -> int:
    """Where `part` begins in `text`, as near to `start` as possible; -1 if it does not stand there."""
    found = text.rfind(part, 0, start + len(part)), text.find(part, start)
    return min((place for place in found if place >= 0), key=lambda place: abs(place - start), default=-1)


@each
def hotpot(row: Row, cut: Cut) -> Found:
    """A question of HotpotQA or 2WikiMultihopQA with its paragraphs. Gold are those with supporting facts.

    Their order is that of the facts, which is that of the hops, except that those with the answer stand last.
    """
    context, facts, answer = (row.fields[name] for name in ("context", "supporting_facts", "answer"))
    if isinstance(context, dict):  # the columns of the hub
        context, facts = zip(context["title"], context["sentences"], strict=True), [[name] for name in facts["title"]]
    chunks = {}
    for title, sentences in context:
        text = " ".join(sentence.strip() for sentence in sentences).strip()
        chunks[title] = Chunk(stable_id(title, text), title, text)
    yield from chunks.values()
    golds = [chunks[title] for title in dict.fromkeys(fact[0] for fact in facts)]
    golds.sort(key=lambda chunk: answer not in ("yes", "no") and str(answer).lower() in chunk.text.lower())
    yield asked(row, row.fields, [answer], [chunk.id for chunk in golds])


@each
def musique(row: Row, cut: Cut) -> Found:
    """A question of MuSiQue with its paragraphs; gold are those of its decomposition, in the order of the hops."""
    fields, ids = row.fields, {}
    for paragraph in fields["paragraphs"]:
        title, text = paragraph["title"] or "", paragraph["paragraph_text"].strip()
        ids[paragraph["idx"]] = stable_id(title, text)
        yield Chunk(ids[paragraph["idx"]], title, text)
    hops = [ids.get(hop["paragraph_support_idx"]) for hop in fields["question_decomposition"]]
    if fields.get("answerable") is False or None in hops:
        yield Dropped("unanswerable", {"id": fields.get("id"), "question": fields["question"]})
        return
    golds = list(dict.fromkeys(reversed(hops)))[::-1]  # of a passage that serves two hops, the last one counts
    yield asked(row, fields, [fields["answer"], *(fields.get("answer_aliases") or [])], golds)


@each
def answered(row: Row, cut: Cut) -> Found:
    """A question with answers only, as in Search-R1's Parquet files and FlashRAG's; `importing` finds gold passages."""
    given = [row.fields.get(name) for name in ("golden_answers", "answers", "answer")]
    given = next(filter(None, given), None) or row.fields["reward_model"]["ground_truth"]["target"]
    yield asked(row, row.fields, [given] if isinstance(given, str) else list(given), [])


@each
def passages(row: Row, cut: Cut) -> Found:
    """A passage in our fields, BEIR's or Search-R1's."""
    yield parse_chunk(row.fields)


def beir(source: Source, cut: Cut) -> Items:
    """A folder of BEIR: corpus.jsonl, queries.jsonl and qrels/*.tsv, whose names are splits.

    Few of its sets have answers (HotpotQA does, in the metadata); there all relevant passages are gold. Elsewhere each
    relevant passage is an answer by itself: the best one is gold, and the titles of all are accepted as answers.
    """
    folder, relevant, titles = source.path, defaultdict(dict), {}
    for path in sorted((folder / "qrels").glob("*.tsv")):
        for where, row in csv_rows(path):
            try:
                relevant[split_of(path.stem), row["query-id"]][row["corpus-id"]] = int(row["score"])
            except (KeyError, TypeError, ValueError):
                yield where, Dropped(f"a judgement with the fields {list(row)}; want query-id, corpus-id, score")
    judged = {passage for grades in relevant.values() for passage in grades}
    for where, item in passages(replace(source, rows=lambda: file_rows([folder / "corpus.jsonl"])), cut):
        if isinstance(item, Chunk) and item.id in judged:
            titles[item.id] = item.title
        yield where, item
    queries = {str(row.get("_id")): (where, row) for where, row in jsonl_rows(folder / "queries.jsonl")}
    for id in sorted(queries.keys() - {id for _, id in relevant}):
        yield queries[id][0], Dropped("no passage is judged relevant", {"id": id})
    for (split, id), grades in relevant.items():
        where, fields = queries.get(id, (str(folder / "queries.jsonl"), {"_id": id}))
        golds = [passage for passage in sorted(grades, key=grades.get, reverse=True) if grades[passage] > 0]
        answer = (fields.get("metadata") or {}).get("answer")
        answers = [answer] if answer else [titles.get(gold) for gold in golds]
        yield where, asked(Row(where, split, fields), fields, answers, golds if answer else golds[:1])


def corpus_folder(source: Source, cut: Cut) -> Items:
    """A folder in this workspace's own format or in AutoDidact's: chunks.jsonl or .csv, perhaps questions.jsonl."""
    questions = source.path / "questions.jsonl"
    yield from read_chunks(find_chunks(source.path))
    for question in load_questions(questions) if questions.is_file() else []:
        yield str(questions), question
