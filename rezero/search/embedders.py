"""Embedders, which turn texts into vectors of length 1, and the folder that caches embeddings of passages."""

import hashlib
import uuid
import zipfile
from collections.abc import Callable, Collection
from functools import cache as once
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file
from tokenizers import Tokenizer
from tqdm import tqdm

from rezero.files import resolve
from rezero.names import load_function

CACHE = ".cache/embeddings"  # below the project's root
BATCH = 1024  # texts that are encoded, and written to the cache, together
# name -> function that loads an embedder: `encode`, from texts to rows of length 1 (or 0), float32 (n, d)
EMBEDDERS = {"wordllama": "rezero.search.embedders:wordllama", "minilm": "rezero.extras.engines:minilm"}


def load_embedder(name: str) -> Callable:
    """The `encode` of an embedder of `EMBEDDERS`, or of any "module:function" that returns one."""
    return load_function(name, EMBEDDERS, "embedder")()


@once
def wordllama() -> Callable:
    """The mean of static token vectors (WordLlama, 256 dimensions), read from the package's two files.

    The package's own loader looks for the tokenizer in a folder that it does not ship, and then on the network.
    """
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
    """Embeddings of `texts`, float32 (n, d). Those in the folder `cache` under `name` are read, others added to it.

    Every batch becomes a file of its own, so two processes that encode at once lose nothing.

    Raises:
        ValueError: a file of the cache is damaged. Names it.
    """
    keys = [hashlib.sha256(f"{name}\0{text}".encode()).hexdigest() for text in texts]
    text_of = dict(zip(keys, texts, strict=True))
    folder = cache and resolve(cache) / name
    known = read_cache(folder, text_of) if folder else {}
    missing = [key for key in text_of if key not in known]
    for start in tqdm(range(0, len(missing), BATCH), desc=f"embed with {name}", delay=1):
        some = missing[start : start + BATCH]
        vectors = encode([text_of[key] for key in some])
        known |= zip(some, vectors, strict=True)
        if folder:
            add_to_cache(folder, some, vectors)
    return np.stack([known[key] for key in keys])


def read_cache(folder: Path, wanted: Collection[str]) -> dict:
    """Key -> vector, float32 (d,), of all files below `folder` that hold any `wanted` key."""
    known = {}
    for path in sorted(folder.glob("*.npz")):
        try:
            with np.load(path) as file:
                keys = file["keys"].tolist()
                if any(key in wanted for key in keys):
                    known |= zip(keys, file["vectors"], strict=True)
        except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path} is not a readable embedding cache; delete it ({error})") from error
    return known


def add_to_cache(folder: Path, keys: list[str], vectors) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f"{uuid.uuid4()}.tmp"
    with temporary.open("wb") as file:
        np.savez(file, keys=np.array(keys), vectors=vectors)
    temporary.replace(folder / f"{hashlib.sha256(''.join(keys).encode()).hexdigest()[:16]}.npz")
