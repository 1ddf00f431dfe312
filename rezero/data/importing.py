"""`python -m rezero data import`: documents and public sets as a corpus folder of this workspace."""

import json
import re
import shutil
import signal
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path
from statistics import median

from tokenizers import Tokenizer
from tqdm.auto import tqdm

from rezero.corpus import Chunk, load_chunks
from rezero.data.chunking import Cut
from rezero.data.documents import DOCUMENTS, read_documents
from rezero.data.records import ROWS, Dropped, Items, Source, file_rows, hub_rows
from rezero.data.sets import answered, beir, corpus_folder, hotpot, musique, passages, squad
from rezero.files import resolve, shown, write_jsonl, write_text
from rezero.questions import SPLITS, Question, save_questions
from rezero.search import build_engine
from rezero.text import clean, normalized

FORMATS = {  # name -> (files of the folder or fields of the first record, importer); the first one that fits is taken
    "beir": ({"corpus.jsonl", "queries.jsonl"}, beir),
    "rezero": ({"chunks.jsonl"}, corpus_folder),
    "autodidact": ({"chunks.csv"}, corpus_folder),
    "musique": ({"paragraphs", "question_decomposition"}, musique),
    "hotpot": ({"context", "supporting_facts"}, hotpot),
    "squad": ({"paragraphs"}, squad),
    "squad-rows": ({"context", "question", "answers"}, squad),
    "answers": ({"question"}, answered),
    "search-r1": ({"id", "contents"}, passages),
    "beir-corpus": ({"_id", "text"}, passages),
    "passages": ({"id", "text"}, passages),
    "documents": (set(DOCUMENTS), read_documents),
}
HITS = 100  # passages of BM25 among which the gold one of a question with answers only is looked for


def import_data(path: str, name: str, format="", corpus="", subset=None, size=1000, overlap=0, tokenizer="") -> Path:
    """Write what stands at `path` to data/<name>/, or to the folder `name` if that is absolute, and print a summary.

    `path` is a file, a folder or a data set's name on the Hugging Face hub (`subset` is its configuration); `corpus`
    holds the passages of questions that come without. `size` and `overlap` count characters or, with a `tokenizer`
    (tokenizer.json or its folder), tokens. A run over the same files gives the same ids and replaces the last one.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that nothing half-written stays behind
    cut, folder = Cut(size, overlap, token_counter(tokenizer)), resolve("data") / name
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "import.json").is_file():
        raise ValueError(f"{folder}: holds files that no import wrote; want another --name")
    looked = [look(one, subset, chosen) for one, chosen in ((corpus, ""), (path, format)) if one]
    items = chain.from_iterable(FORMATS[found][1](source, cut) for found, source, _ in looked)
    rest = chain.from_iterable(others for _, _, others in looked)
    kept, part = Kept(), folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)  # of a run that was killed
    try:
        write_jsonl(part / "chunks.jsonl", kept.passages(chain(rest, items)))
        if not kept.ids:
            why = "; ".join(f"{where}: {item.why}" for where, item in kept.dropped[:3])
            raise ValueError(why or f"{path}: holds no passage; name the corpus of its questions with --corpus")
        questions = kept.linked(part / "chunks.jsonl")
        if questions:
            save_questions(part / "questions.jsonl", questions)
        tops = [f"{source.path.parent}/" for _, source, _ in looked]
        dropped = [(_without(where, tops), item) for where, item in kept.dropped]
        write_jsonl(part / "dropped.jsonl", ({"where": where, **asdict(item)} for where, item in dropped))
        made = {"path": _without(path, tops), "format": looked[-1][0], "size": size, "overlap": overlap}
        made |= {"tokenizer": tokenizer, "passages": len(kept.ids), "questions": len(questions)}
        write_text(part / "import.json", json.dumps(made, indent=1))
        folder.mkdir(parents=True, exist_ok=True)
        for file in sorted(part.iterdir()):
            file.replace(folder / file.name)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    print("\n".join(summary(folder, looked[-1][0], kept, questions, dropped)))
    return folder


def token_counter(tokenizer: str):
    """`len`, or the function that counts the tokens of a text."""
    if not tokenizer:
        return len
    file = resolve(tokenizer)
    file = file / "tokenizer.json" if file.is_dir() else file
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file; want a tokenizer.json or its folder")
    reader = Tokenizer.from_file(str(file))
    return lambda text: len(reader.encode(text, add_special_tokens=False).ids)


def look(path: str, subset: str | None = None, format: str = "") -> tuple[str, Source, list[tuple[str, Dropped]]]:
    """(format, source, what is left out) of a path or a name on the hub. `format` overrides what is found."""
    if format and format not in FORMATS:
        raise ValueError(f"unknown format {format!r}; allowed: {', '.join(FORMATS)}")
    top = resolve(path)
    saved = any((top / name).is_file() for name in ("dataset_dict.json", "state.json"))
    if saved or (not top.exists() and re.fullmatch(r"[\w.-]+/[\w.-]+", path)):
        source = Source(top, rows=partial(hub_rows, str(top) if saved else path, subset))
        try:
            fields = next(source.rows()).fields
        except Exception as error:  # the library has many, and long ones
            why = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ValueError(f"{top}: cannot be read; nor can {path!r} on the Hugging Face hub: {why}") from None
        return format or _fitting(set(fields), path), source, []
    if not top.exists():
        raise FileNotFoundError(f"{top}: no such file or folder; want documents, a data set, or OWNER/NAME on the hub")
    return _look_at_files(top, format)


def _look_at_files(top: Path, format: str) -> tuple[str, Source, list[tuple[str, Dropped]]]:
    files = sorted(file for file in top.rglob("*") if file.is_file()) if top.is_dir() else [top]
    files = [file for file in files if not any(part.startswith(".") for part in file.relative_to(top).parts)]
    found = format or _fitting({file.name for file in files if file.parent == top}, "")
    if found in ("beir", "rezero", "autodidact"):
        return found, Source(top), []
    by_format, rest = defaultdict(list), []
    for file in files:
        suffix = file.suffix.lower()
        if suffix in DOCUMENTS:
            by_format["documents"].append(file)
        elif suffix in ROWS and format != "documents":
            try:
                row = next(file_rows([file]), None)
                by_format[format or _fitting(set(row.fields) if row else set(), file)].append(file)
            except ValueError as error:
                if top == file:
                    raise
                rest.append((str(file), Dropped(str(error).removeprefix(f"{file}:").strip())))
        else:
            rest.append((str(file), Dropped(f"its ending is {suffix!r}")))
    found = format or next(filter(by_format.get, FORMATS), "")
    if not by_format[found]:
        why = f": {rest[0][1].why}" if rest else ""
        want = f"want documents ({', '.join(DOCUMENTS)}) or a set ({', '.join(ROWS)})"
        raise ValueError(f"{rest[0][0] if rest else top}{why or ': holds no file'}; {want}")
    left = chain.from_iterable(others for name, others in by_format.items() if name != found)
    rest += [(str(file), Dropped(f"left out, for the other files are read as {found}")) for file in left]
    documents = by_format[found] if found == "documents" else []
    return found, Source(top, documents, partial(file_rows, by_format[found])), rest


def _fitting(names: set[str], where: Path | str) -> str:
    """The first format whose names are all there; "" or, with a place to name, a ValueError if none is."""
    found = next((name for name, (wanted, _) in FORMATS.items() if wanted <= names), "")
    if where and not found:
        shapes = "; ".join(f"{name}: {', '.join(sorted(wanted))}" for name, (wanted, _) in FORMATS.items())
        raise ValueError(f"{where}: has the fields {', '.join(sorted(names)) or '(none)'}; want those of {shapes}")
    return found


@dataclass
class Kept:
    """What an import keeps and drops, gathered while the passages are written."""

    ids: dict[str, int] = field(default_factory=dict)  # passage -> hash of its text
    lengths: array = field(default_factory=partial(array, "L"))
    questions: list[tuple[str, Question]] = field(default_factory=list)
    dropped: list[tuple[str, Dropped]] = field(default_factory=list)
    no_splits: bool = False

    def passages(self, items: Items) -> Iterator[dict]:
        """The rows of chunks.jsonl. A passage that comes again is written once."""
        for where, item in tqdm(items, unit=" items", disable=None):
            if isinstance(item, Question):
                self.questions.append((where, item))
            elif isinstance(item, Dropped):
                self.dropped.append((where, item))
            else:
                item = Chunk(item.id, clean(item.title), clean(item.text), item.source)
                before = self.ids.setdefault(item.id, hash((item.title, item.text)))
                if len(self.ids) > len(self.lengths):
                    self.lengths.append(len(item.text))
                    yield asdict(item)
                elif before != hash((item.title, item.text)):
                    self.drop(where, "its id was used before, for another passage", id=item.id)

    def drop(self, where: str, why: str, **record: object) -> None:
        self.dropped.append((where, Dropped(why, record)))

    def linked(self, chunks: Path) -> list[Question]:
        """The questions whose gold passages exist, or can be found by their answers; each id once."""
        found, used = [], set()
        open_ones = [question for _, question in self.questions if not question.gold_chunk_ids]
        golds = find_golds(open_ones, load_chunks(chunks)) if open_ones else {}
        for where, question in self.questions:
            if not question.gold_chunk_ids and question.id in golds:
                question = replace(question, gold_chunk_ids=(golds[question.id],))
            missing = [gold for gold in question.gold_chunk_ids if gold not in self.ids]
            if question.id in used:
                self.drop(where, "the question's id was used before", id=question.id, question=question.text)
            elif missing:
                self.drop(where, "a gold passage does not exist", id=question.id, gold=missing)
            elif not question.gold_chunk_ids:
                why = f"none of the first {HITS} passages of bm25 has the answer"
                self.drop(where, why, id=question.id, question=question.text)
            else:
                used.add(question.id)
                found.append(question)
        self.no_splits = len({question.split for question in found}) < 2
        return [replace(question, split="train") for question in found] if self.no_splits else found


def find_golds(questions: Iterable[Question], chunks: list[Chunk]) -> dict[str, str]:
    """Question -> the best passage of BM25 that has one of its answers: distant supervision (Karpukhin et al. 2020)."""
    engine, golds = build_engine("bm25", chunks), {}
    questions = list(questions)
    for start in range(0, len(questions), 256):
        batch = questions[start : start + 256]
        for question, hits in zip(batch, engine.search([q.text for q in batch], HITS), strict=True):
            answers = [f" {normalized(answer)} " for answer in question.answers]
            for hit in hits:
                text = f" {normalized(f'{hit.title} {hit.text}')} "
                if any(answer.strip() and answer in text for answer in answers):
                    golds.setdefault(question.id, hit.chunk_id)
                    break
    return golds


def summary(folder: Path, found: str, kept: Kept, questions: list[Question], dropped: list) -> Iterator[str]:
    """What an import understood, in lines for a terminal."""
    length = f"{median(kept.lengths):.0f} characters at the median, {max(kept.lengths)} at most"
    splits, golds = Counter(question.split for question in questions), [q.gold_chunk_ids for q in questions]
    named = ", ".join(f"{splits[split]} {split}" for split in SPLITS)
    if kept.no_splits and questions:
        named = "the files name no splits, so training divides them by passage"
    yield f"{shown(folder)}: read as {found}"
    yield f"passages    {len(kept.ids)}, {length}"
    yield f"questions   {len(questions)}" + (f" ({named})" if questions else "")
    yield f"gold links  {sum(map(len, golds))}, to {len(set(chain.from_iterable(golds)))} passages"
    reasons = defaultdict(list)
    for where, item in dropped:
        reasons[item.why].append(where)
    yield f"dropped     {len(dropped)}" + (f", in {shown(folder / 'dropped.jsonl')}:" if dropped else "")
    for why, places in sorted(reasons.items(), key=lambda pair: -len(pair[1])):
        more = ", …" if len(places) > 3 else ""
        yield f"  {len(places):>8}  {why} ({', '.join(places[:3])}{more})"


def _without(where: str, tops: list[str]) -> str:
    for top in tops:
        where = where.removeprefix(top)
    return where
