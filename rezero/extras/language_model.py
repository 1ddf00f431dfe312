"""Replies of a language model to prompts: a server with OpenAI's interface or a local model, each prompt asked once."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm.auto import tqdm

from rezero.extras.remote import connect
from rezero.files import append_jsonl, read_jsonl, resolve
from rezero.policy.load import load_policy
from rezero.search.base import SearchError
from rezero.text import clean

Backend = Callable[[list[str]], Iterable[str]]  # prompts → replies, in the same order


def named_backend(name: str, tokens: int) -> Backend:
    """The model that `name` names: "URL MODEL" (OpenAI-compatible), a folder or a hub name; `tokens` of a reply."""
    url, _, model = name.partition(" ")
    if url.startswith(("http://", "https://")) and not model:
        raise ValueError(f"the model is {name!r}; want a URL, a space and the model's name")
    return openai_compatible(url, model, tokens) if model else local(name, tokens=tokens)


def cached(backend: Backend, name: str, cache: str | Path, longest: int | None = None) -> Backend:
    """`backend`, which is asked each prompt once; a bar shows how many are done.

    Replies, cut to `longest` characters, are kept in the file `cache` by `name`, which must differ between models, and
    prompt, one by one: what a killed process had asked is not asked again.
    """
    rows = read_jsonl(cache, appended=True) if resolve(cache).exists() else ()
    known = {row["key"]: row["reply"] for row in rows}

    def replies(prompts: list[str]) -> list[str]:
        keys = {prompt: hashlib.sha256(f"{name}\n{prompt}".encode()).hexdigest() for prompt in prompts}
        new = [prompt for prompt, key in keys.items() if key not in known]
        bar = tqdm(new, unit=" prompts", disable=None if len(new) > 1 else True)
        for prompt, reply in zip(bar, backend(new), strict=True):
            known[keys[prompt]] = clean(reply[:longest])
            append_jsonl(cache, {"key": keys[prompt], "model": name, "reply": known[keys[prompt]]})
        return [known[keys[prompt]] for prompt in prompts]

    return replies


def openai_compatible(url: str, model: str, tokens: int = 8) -> Backend:
    """Replies of a server with OpenAI's interface, 8 requests at a time; `url` is the part before "/chat/completions".

    Failures that may pass are tried again four times, after 0, 2, 4 and 8 s; ConnectionError if the last try fails.
    """
    key = os.environ.get("MODEL_API_KEY") or os.environ.get("JUDGE_API_KEY")  # not every server wants one
    ask = connect(url.rstrip("/"), 60 + tokens / 4, 4, {"Authorization": f"Bearer {key}"} if key else {}, backoff=1)

    def reply(prompt: str) -> str:
        messages = [{"role": "user", "content": prompt}]
        body = {"model": model, "messages": messages, "temperature": 0, "max_tokens": tokens}
        try:
            return ask("/chat/completions", [body], lambda said: str(said["choices"][0]["message"]["content"] or ""))
        except SearchError as error:
            raise ConnectionError(f"model {model!r}: {error}; want a completion") from error

    def replies(prompts: list[str]) -> Iterator[str]:
        with ThreadPoolExecutor(8) as pool:
            yield from pool.map(reply, prompts)

    return replies


def local(name: str, batch: int = 16, tokens: int = 4) -> Backend:
    """Replies of a model by its folder or its name on the hub, `batch` prompts at a time."""
    model = load_policy(name)

    def replies(prompts: list[str]) -> Iterator[str]:
        ids = [model.prompt_ids([{"role": "user", "content": prompt}]) for prompt in prompts]
        for start in range(0, len(ids), batch):
            for turn in model.start(ids[start : start + batch], temperature=0).generate(tokens):
                yield model.decode([i for i in turn if i != model.end_of_turn])

    return replies
