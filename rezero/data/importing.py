"""`python -m rezero data import`: documents and public sets as a corpus folder of this workspace."""

import json
import re
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path

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
FOLDERS = ("beir", "rezero", "autodidact")
HITS = 100  # passages of BM25 among which the gold one of a question with answers only is looked for


def import_data(path: str, name: str, format="", corpus="", subset=None, size=1000, overlap=0, tokenizer="") -> Path:
    """Write what stands at `path` to data/<name>/, or to the folder `name` if that is absolute, and print a summary.

    `path` is a file, a folder or a data set's name on the Hugging Face hub (`subset` is its configuration); `corpus`
    holds the passages of questions that come without. `size` and `overlap` count characters or, with a `tokenizer`
    (tokenizer.json or its folder), tokens. A run over the same files gives the same ids and replaces the last one.
    """
    cut, folder = Cut(size, overlap, token_counter(tokenizer)), resolve("data") / name
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "import.json").is_file():
        raise ValueError(f"{folder}: holds files that no import wrote; want another --name")
    looked = [look(corpus)] * bool(corpus) + [look(path, subset, format)]
    items = (chain(rest, FORMATS[found][1](source, cut)) for found, source, rest in looked)
    kept, part = Kept(), folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)  # of a run that was killed
    try:
        write_jsonl(part / "chunks.jsonl", kept.passages(chain.from_iterable(items)))
        if not kept.ids:
            why = "; ".join(f"{where}: {item.why}" for where, item in kept.dropped[:3])
            raise ValueError(why or f"{path}: holds no passage; name the corpus of its questions with --corpus")
        questions = kept.linked(part / "chunks.jsonl")
        if questions:
            save_questions(part / "questions.jsonl", questions)
        top = f"{resolve(path).parent}/"
        kept.dropped = [(where.removeprefix(top), item) for where, item in kept.dropped]
        write_jsonl(part / "dropped.jsonl", ({"where": where} | asdict(item) for where, item in kept.dropped))
        lines = list(summary(looked[-1][0], kept, questions))
        made = {"path": shown(resolve(path)), "size": size, "overlap": overlap, "tokenizer": tokenizer}
        write_text(part / "import.json", json.dumps(made | {"summary": lines}, indent=1))
        folder.mkdir(parents=True, exist_ok=True)
        for file in sorted(part.iterdir()):
            file.replace(folder / file.name)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    print(shown(folder), *lines, sep="\n")
    return folder


def token_counter(tokenizer: str) -> Callable[[str], int]:
    """`len`, or the function that counts the tokens of a text."""
    if not tokenizer:
        return len
    file = resolve(tokenizer)
    file = file / "tokenizer.json" if file.is_dir() else file
    reader = Tokenizer.from_str(file.read_text("utf-8"))
    return lambda text: len(reader.encode(text, add_special_tokens=False).ids)


def look(path: str, subset: str | None = None, format: str = "") -> tuple[str, Source, list[tuple[str, Dropped]]]:
    """(format, source, files left out) of a path or of a name on the hub; `format` overrides what is found."""
    if format and format not in FORMATS:
        raise ValueError(f"unknown format {format!r}; allowed: {', '.join(FORMATS)}")
    top = resolve(path)
    saved = any((top / name).is_file() for name in ("dataset_dict.json", "state.json"))
    if top.exists() and not saved:
        return look_at_files(top, format)
    if not saved and not re.fullmatch(r"[\w.-]+/[\w.-]+", path):
        raise FileNotFoundError(f"{top}: no such file or folder; want documents, a data set, or OWNER/NAME on the hub")
    source = Source(top, rows=partial(hub_rows, str(top) if saved else path, subset))
    try:
        fields = next(source.rows()).fields
    except Exception as error:  # the library has many, and long ones
        why = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"{top}: cannot be read; nor can {path!r} on the Hugging Face hub: {why}") from None
    return format or fitting(set(fields), path), source, []


def look_at_files(top: Path, format: str) -> tuple[str, Source, list[tuple[str, Dropped]]]:
    files = sorted(file for file in top.rglob("*") if file.is_file()) if top.is_dir() else [top]
    files = [file for file in files if not any(part.startswith(".") for part in file.relative_to(top).parts)]
    here = {file.name for file in files if file.parent == top}
    found = format or next((name for name in FOLDERS if FORMATS[name][0] <= here), "")
    if found in FOLDERS:
        return found, Source(top), []
    by_format, rest = defaultdict(list), []
    for file in files:
        suffix = file.suffix.lower()
        try:
            if suffix in ROWS and format != "documents":
                row = next(file_rows([file]), None)
                by_format[format or fitting(set(row.fields) if row else set(), file)].append(file)
            elif suffix in DOCUMENTS:
                by_format["documents"].append(file)
            else:
                want = f"want documents ({', '.join(DOCUMENTS)}) or a set ({', '.join(ROWS)})"
                raise ValueError(f"{file}: its ending is {suffix!r}; {want}")
        except (ValueError, OSError) as error:
            why = str(error).removeprefix(str(file)).removeprefix(":").strip()
            if file == top:
                raise ValueError(str(error) if str(file) in str(error) else f"{file}: {why}") from None
            rest.append((str(file), Dropped(why.split("; want documents")[0])))
    found = format or next(filter(by_format.get, FORMATS), "")
    chosen = by_format.pop(found, [])
    if not chosen:
        raise ValueError(f"{rest[0][0]}: {rest[0][1].why}" if rest else f"{top}: holds no file to import")
    others = chain.from_iterable(by_format.values())
    rest += [(str(file), Dropped(f"the other files are read as {found}")) for file in others]
    return found, Source(top, chosen, partial(file_rows, chosen)), rest


def fitting(names: set[str], where: Path | str) -> str:
    """The first format whose fields are all among `names`."""
    sets = {name: wanted for name, (wanted, _) in FORMATS.items() if name not in (*FOLDERS, "documents")}
    found = next((name for name, wanted in sets.items() if wanted <= names), "")
    if not found:
        shapes = "; ".join(f"{', '.join(sorted(wanted))} ({name})" for name, wanted in sets.items())
        raise ValueError(f"{where}: has the fields {', '.join(sorted(names)) or '(none)'}; want at least {shapes}")
    return found


@dataclass
class Kept:
    """What an import keeps and drops, gathered while the passages are written."""

    ids: dict[str, int] = field(default_factory=dict)  # passage -> hash of its text
    longest: int = 0
    total: int = 0  # characters
    questions: list[tuple[str, Question]] = field(default_factory=list)
    dropped: list[tuple[str, Dropped]] = field(default_factory=list)

    def passages(self, items: Items) -> Iterator[dict]:
        """The rows of chunks.jsonl. A passage that comes again is written once."""
        for where, item in tqdm(items, unit=" items", disable=None):
            if isinstance(item, Question):
                self.questions.append((where, item))
            elif isinstance(item, Dropped):
                self.dropped.append((where, item))
            elif not item.text.strip():
                self.drop(where, "no text", id=item.id)
            elif item.id not in self.ids:
                self.ids[item.id] = hash((item.title, item.text))
                self.longest, self.total = max(self.longest, len(item.text)), self.total + len(item.text)
                yield vars(item) | {"title": clean(item.title), "text": clean(item.text)}
            elif self.ids[item.id] != hash((item.title, item.text)):
                self.drop(where, "its id was used before, for another passage", id=item.id)

    def drop(self, where: str, why: str, **record: object) -> None:
        self.dropped.append((where, Dropped(why, record)))

    def linked(self, path: Path) -> list[Question]:
        """The questions whose gold passages exist, or are found by their answers; each id once."""
        found = {}
        without = [question for _, question in self.questions if not question.gold_chunk_ids]
        golds = find_golds(without, load_chunks(path)) if without else {}
        for where, question in self.questions:
            ids = question.gold_chunk_ids or golds[question.id]
            if question.id in found:
                self.drop(where, "the question's id was used before", id=question.id, question=question.text)
            elif not ids:
                self.drop(where, f"no answer in the first {HITS} passages of bm25", id=question.id)
            elif not self.ids.keys() >= set(ids):
                self.drop(where, "a gold passage does not exist", id=question.id, gold=ids)
            else:
                found[question.id] = replace(question, gold_chunk_ids=ids)
        named = {question.split for question in found.values()}
        return [replace(q, split="train") if len(named) == 1 else q for q in found.values()]  # one split is none


def find_golds(questions: list[Question], chunks: list[Chunk]) -> dict[str, tuple[str, ...]]:
    """Question -> the best passage of BM25 that has one of its answers: distant supervision (Karpukhin et al. 2020)."""
    engine, golds = build_engine("bm25", chunks), {}
    for question in tqdm(questions, unit=" questions", disable=None):
        answers = [f" {normalized(answer)} " for answer in question.answers]
        hits = engine.search([question.text], HITS)[0]
        texts = ((hit.chunk_id, f" {normalized(f'{hit.title} {hit.text}')} ") for hit in hits)
        holding = (id for id, text in texts if any(answer.strip() and answer in text for answer in answers))
        golds[question.id] = tuple(islice(holding, 1))
    return golds


def summary(found: str, kept: Kept, questions: list[Question]) -> Iterator[str]:
    """What an import understood, in lines for a terminal."""
    splits = Counter(question.split for question in questions)
    named = ", ".join(f"{splits[split]} {split}" for split in SPLITS)
    if len(splits) == 1:
        named = "without splits of their own: training divides them by passage"
    golds = [question.gold_chunk_ids for question in questions]
    yield f"read as {found}"
    yield f"passages    {len(kept.ids)}, {kept.total / len(kept.ids):.0f} characters on average, {kept.longest} at most"
    made = "; `python -m rezero data questions` or `data cloze` makes some"
    yield f"questions   {len(questions)}" + (f", {named}" if questions else made)
    yield f"gold links  {sum(map(len, golds))}, to {len(set(chain.from_iterable(golds)))} passages"
    yield f"dropped     {len(kept.dropped)}" + (", each with its reason in dropped.jsonl" if kept.dropped else "")
    places = defaultdict(list)
    for where, item in kept.dropped:
        places[item.why].append(where)
    for why, some in sorted(places.items(), key=lambda pair: -len(pair[1]))[:20]:
        yield f"{len(some):>10}  {why}: {', '.join(some[:3])}{', …' if len(some) > 3 else ''}"
