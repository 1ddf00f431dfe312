"""Dense retrieval: a passage matches by the cosine similarity of its embedding and the query's, computed by FAISS."""

import hashlib
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache as once
from importlib.util import find_spec
from pathlib import Path
from pkgutil import resolve_name
from typing import Annotated, Literal

import numpy as np
from pydantic import AfterValidator
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer
from tqdm import tqdm

from rezero.corpus import Chunk
from rezero.files import resolve
from rezero.names import load_function
from rezero.search.base import Search, indexed_text, needs, ranked

CACHE = ".cache/embeddings"  # below the project's root
BATCH = 1024  # texts that are encoded, and written to the cache, together
# name -> function that loads an embedder: `encode`, from texts to rows of length 1 (or 0), float32 (n, d)
EMBEDDERS = {"wordllama": "rezero.search.dense:wordllama", "minilm": "rezero.extras.engines:minilm"}
FLAT_UNTIL, SQ8_UNTIL = 100_000, 1_000_000  # passages, for index="auto"
Embedder = Annotated[str, AfterValidator(lambda name: load_function(name, EMBEDDERS, "embedder") and name)]
GPU_WIDTH = 2048  # FAISS on a GPU returns at most so many candidates


def dense(
    chunks: Sequence[Chunk],
    embedder: Embedder = "wordllama",
    cache: str | Path | None = CACHE,
    index: Literal["auto", "flat", "sq8", "hnsw"] = "auto",
) -> Search:
    """Cosine similarity of embeddings; those of chunks are kept in the folder `cache`, unless it is None.

    `index` is "flat", exact, on a GPU where FAISS can use one; "sq8" or "hnsw", for many passages, see `extras.large`;
    or "auto": flat up to 100,000 passages, sq8 up to 1,000,000, else hnsw.
    """
    with needs("cpu", "engine 'dense'"):
        import faiss
    if index == "auto":
        index = "flat" if len(chunks) <= FLAT_UNTIL else "sq8" if len(chunks) <= SQ8_UNTIL else "hnsw"
    encode = load_embedder(embedder)
    vectors = embed([indexed_text(chunk) for chunk in chunks], embedder, encode, cache)
    store, fast = resolve_name("rezero.extras.large:build_index")(index, vectors)
    # FAISS multiplies matrices once a batch has 128,000 numbers. This threshold makes a query two to six times faster.
    faiss.cvar.distance_compute_blas_threshold = 2048 * faiss.omp_get_max_threads()
    return ranked(chunks, lambda queries, k: nearest(fast, store, encode(queries), k))


def nearest(fast, store, queries, k: int) -> list[list[tuple[int, float]]]:
    """Per query, pairs (position, score) of the `k` nearest rows, best first, ties by position.

    FAISS's scores change in the last digits with the size of the batch, so candidates are scored again, pair by pair.
    Of rows that tie for the last place it returns arbitrary ones, so it is asked for more until the tie ends. `fast` is
    searched, perhaps on a GPU; `store` holds the same rows on the CPU. `queries`: float32 (n, d).
    """
    score = resolve_name("rezero.extras.large:score_again")
    found: list = [None] * len(queries)
    left = np.arange(len(queries))  # the queries that have no result yet
    spare = 2
    while len(left):
        width = min(k + spare, store.ntotal)
        scores, positions = (fast if width <= GPU_WIDTH else store).search(queries[left], width)
        exact = score(store, queries[left], positions)
        orders = np.lexsort((positions, -exact), axis=1)[:, :k]  # highest score first, then lowest position
        for row, (query, order) in enumerate(zip(left, orders, strict=True)):
            found[query] = list(zip(positions[row, order].tolist(), exact[row, order].tolist(), strict=True))
        # Two computations of a cosine differ by far less than 1e-4. All at 0: the query has no embedding.
        tied = (scores[:, -1] > scores[:, k - 1] - 1e-4) & (scores[:, 0] != 0)
        left = left[tied] if width < store.ntotal else []
        spare *= 8
    return found


def load_embedder(name: str) -> Callable:
    return load_function(name, EMBEDDERS, "embedder")()


@once
def wordllama() -> Callable:
    """The mean of static token vectors (WordLlama, 256 dimensions). The package's own loader may ask the network."""
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


def unit(vectors):
    """The rows of a float32 array (n, d) at length 1. A zero row stays zero, and so matches nothing."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(length > 0, length, 1)).astype(np.float32)


def embed(texts: list[str], name: str, encode: Callable, cache: str | Path | None):
    """Embeddings of `texts`, float32 (n, d). Those in the folder `cache` under `name` are read, others added to it."""
    keys = [hashlib.sha256(f"{name}\0{text}".encode()).hexdigest() for text in texts]
    text_of = dict(zip(keys, texts, strict=True))
    folder, known = cache and resolve(cache) / name, {}
    for path in sorted(folder.glob("*.safetensors")) if folder else ():
        with suppress(OSError, SafetensorError):  # what is damaged is made again
            kept = load_file(path)
            known |= {key: kept[key] for key in text_of.keys() & kept.keys()}
    missing = [key for key in text_of if key not in known]
    for start in tqdm(range(0, len(missing), BATCH), desc=f"embed with {name}", delay=1):
        some = missing[start : start + BATCH]
        fresh = dict(zip(some, encode([text_of[key] for key in some]), strict=True))
        known.update(fresh)
        if folder:  # a batch becomes a file of its own, so that two processes that encode at once lose nothing
            temporary = folder / f"{uuid.uuid4()}.tmp"
            with suppress(OSError, SafetensorError):  # without a cache that can be written, it is done without
                folder.mkdir(parents=True, exist_ok=True)
                save_file(fresh, temporary)
                temporary.replace(folder / f"{hashlib.sha256(''.join(some).encode()).hexdigest()}.safetensors")
    return np.stack([known[key] for key in keys])
