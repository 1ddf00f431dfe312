"""Importers of public sets of questions: a function per shape, which takes one record and yields what is in it."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import wraps
from itertools import chain

from rezero.corpus import READERS, Chunk, parse_chunk
from rezero.data.chunking import Cut, spans, stable_id
from rezero.data.records import Dropped, Items, Row, Source, file_rows, split_of
from rezero.files import csv_rows, numbered_rows
from rezero.questions import Question, load_questions

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
            except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
                why = f"{error} is missing" if isinstance(error, KeyError) else str(error)
                yield row.where, Dropped(f"another shape: {why:.100}", {"fields": list(row.fields)})

    return read_all


def ask(row: Row, id: object, text: str, answers: list, golds: list[str]) -> Question | Dropped:
    """A question, or why it is none: answers are told apart and stripped, an id of its own is made where there is none.

    The last gold passage is to hold the first answer, so that golds are ordered by hops.
    """
    answers = list(dict.fromkeys(str(answer).strip() for answer in answers if answer is not None))
    answers = [answer for answer in answers if answer]
    if not str(text or "").strip():
        return Dropped("the question is empty", {"id": str(id), "answers": answers})
    if not answers:
        return Dropped("no answer", {"id": str(id), "question": text})
    id = stable_id(text, *answers) if id is None else str(id)
    kind = "two-hop" if len(golds) > 1 else "direct"
    return Question(id, text.strip(), tuple(answers), tuple(golds), kind=kind, split=row.split or "train")


@each
def squad(row: Row, cut: Cut) -> Found:
    """An article of SQuAD 1 or 2, XQuAD or COVID-QA, or a row with one question, as the hub has them.

    The answer's offset finds its passage. Where it is wrong, as in a tenth of COVID-QA, the nearest occurrence counts.
    """
    fields = row.fields
    title = fields.get("title") or ""
    for paragraph in fields.get("paragraphs") or [{"context": fields["context"], "qas": [fields]}]:
        context = paragraph["context"]
        whole = cut.length(context) <= WHOLE * cut.size
        places = [(0, len(context))] if whole else list(spans(context, cut))
        ids = [stable_id(title, context[a:b]) for a, b in places]
        for id, (a, b) in zip(ids, places, strict=True):
            yield Chunk(id, title, context[a:b])
        for asked in paragraph["qas"]:
            answers = asked.get("answers") or []
            if isinstance(answers, dict):  # the hub's columns
                pairs = list(zip(answers["text"], answers["answer_start"], strict=True))
            else:
                pairs = [(answer["text"], answer["answer_start"]) for answer in answers]
            record = {"id": str(asked.get("id")), "question": asked["question"], "passages": ids}
            if asked.get("is_impossible") or not pairs:
                yield Dropped("unanswerable", record)
                continue
            starts = {text.strip(): _nearest(context, text.strip(), start) for text, start in pairs}
            standing = {text: start for text, start in starts.items() if text and start >= 0}
            golds = [
                id
                for text, start in standing.items()
                for id, (a, b) in zip(ids, places, strict=True)
                if a <= start and start + len(text) <= b
            ]
            if not standing:
                yield Dropped("the answer is not in its passage", record | {"answers": list(starts)})
            elif not golds:
                yield Dropped("the answer goes over the end of a passage", record | {"answers": list(starts)})
            else:
                yield ask(row, asked.get("id"), asked["question"], list(standing), golds[:1])


def _nearest(context: str, text: str, start: int) -> int:
    """Where `text` begins in `context`, as near to `start` as possible; -1 if it does not stand there."""
    before, after = context.rfind(text, 0, start + len(text)), context.find(text, start)
    found = [place for place in (before, after) if place >= 0]
    return min(found, key=lambda place: abs(place - start), default=-1)


@each
def hotpot(row: Row, cut: Cut) -> Found:
    """A question of HotpotQA or 2WikiMultihopQA with its paragraphs. Gold are those with supporting facts.

    Their order is that of the facts, which is that of the hops, except that those with the answer stand last.
    """
    context, facts = row.fields["context"], row.fields["supporting_facts"]
    pairs = zip(context["title"], context["sentences"], strict=True) if isinstance(context, dict) else context
    named = facts["title"] if isinstance(facts, dict) else [fact[0] for fact in facts]
    chunks = {}
    for title, sentences in pairs:
        text = " ".join(sentence.strip() for sentence in sentences).strip()
        chunks[title] = Chunk(stable_id(title, text), title, text)
    yield from chunks.values()
    answer, missing = row.fields.get("answer"), [title for title in named if title not in chunks]
    id = row.fields.get("_id", row.fields.get("id"))
    if missing or not named:
        yield Dropped(f"the supporting facts name {missing or 'no passage'}", {"id": str(id)})
        return
    golds = [chunks[title] for title in dict.fromkeys(named)]
    golds.sort(key=lambda chunk: str(answer).lower() in chunk.text.lower())
    yield ask(row, id, row.fields["question"], [answer], [chunk.id for chunk in golds])


@each
def musique(row: Row, cut: Cut) -> Found:
    """A question of MuSiQue with its paragraphs; gold are those of its decomposition, in the order of the hops."""
    fields, ids = row.fields, {}
    for number, paragraph in enumerate(fields["paragraphs"]):
        title, text = paragraph.get("title") or "", paragraph["paragraph_text"].strip()
        ids[paragraph.get("idx", number)] = stable_id(title, text)
        yield Chunk(stable_id(title, text), title, text)
    hops = [ids.get(hop["paragraph_support_idx"]) for hop in fields["question_decomposition"]]
    golds = list(dict.fromkeys(reversed(hops)))[::-1]  # of a passage that serves two hops, the last one counts
    if fields.get("answerable") is False or None in hops:
        yield Dropped("unanswerable", {"id": str(fields.get("id")), "question": fields["question"]})
        return
    answers = [fields.get("answer"), *(fields.get("answer_aliases") or [])]
    yield ask(row, fields.get("id"), fields["question"], answers, golds)


@each
def answered(row: Row, cut: Cut) -> Found:
    """A question with answers only, as in Search-R1's Parquet files and FlashRAG's; `importing` finds gold passages."""
    fields = row.fields
    given = next((fields[name] for name in ("golden_answers", "answers", "answer") if fields.get(name)), None)
    if given is None:
        given = fields["reward_model"]["ground_truth"]["target"]
    yield ask(row, fields.get("id"), fields["question"], [given] if isinstance(given, str) else list(given), [])


@each
def passages(row: Row, cut: Cut) -> Found:
    """A passage in our fields, BEIR's or Search-R1's."""
    chunk = parse_chunk(row.fields)
    yield chunk if chunk.text.strip() else Dropped("no text", {"id": chunk.id})


def beir(source: Source, cut: Cut) -> Items:
    """A folder of BEIR: corpus.jsonl, queries.jsonl and qrels/*.tsv, whose names are splits.

    Few of its sets have answers (HotpotQA does, in the metadata); there all relevant passages are gold. Elsewhere each
    relevant passage is an answer by itself: the best one is gold, and the titles of all are accepted as answers.
    """
    folder, relevant = source.path, defaultdict(dict)  # (split, query) -> passage -> grade
    for path in sorted((folder / "qrels").glob("*.tsv")):
        for where, row in csv_rows(path):
            try:
                relevant[split_of(path.stem), row["query-id"]][row["corpus-id"]] = int(row["score"])
            except (KeyError, TypeError, ValueError):
                yield where, Dropped(f"a judgement with the fields {list(row)}; want query-id, corpus-id, score")
    titles = dict.fromkeys(chain.from_iterable(relevant.values()), "")
    for where, item in passages(replace(source, rows=lambda: file_rows([folder / "corpus.jsonl"])), cut):
        if isinstance(item, Chunk) and item.id in titles:
            titles[item.id] = item.title
        yield where, item
    asked = {str(row["_id"]): (where, row) for where, row in numbered_rows(folder / "queries.jsonl")}
    for (split, id), grades in relevant.items():
        where, row = asked.get(id, (str(folder / "queries.jsonl"), {}))
        golds = [passage for passage in sorted(grades, key=grades.get, reverse=True) if grades[passage] > 0]
        answer = (row.get("metadata") or {}).get("answer")
        named = [titles[gold] for gold in golds]
        row_of = Row(where, split, row)
        yield where, ask(row_of, id, row.get("text"), [answer] if answer else named, golds if answer else golds[:1])
    judged = {id for _, id in relevant}
    for id, (where, _) in asked.items():
        if id not in judged:
            yield where, Dropped("no passage is judged relevant", {"id": id})


def corpus_folder(source: Source, cut: Cut) -> Items:
    """A folder in this workspace's own format or in AutoDidact's: chunks.jsonl or .csv, perhaps questions.jsonl."""
    folder = source.path
    path = next(folder / f"chunks{ending}" for ending in READERS if (folder / f"chunks{ending}").is_file())
    for where, chunk in READERS[path.suffix](path):
        yield where, chunk if chunk.text.strip() else Dropped("no text", {"id": chunk.id})
    asked = folder / "questions.jsonl"
    for question in load_questions(asked) if asked.is_file() else []:
        yield str(asked), question
