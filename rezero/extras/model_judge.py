"""A language model as judge, never the policy in training; data/judge/agreement.py measures how well judges do.

The model sees only the question, the accepted answers and the given one, and its reply is read strictly. (In the
original, the policy judged its own transcript, and every reply that contained "yes" counted as a yes.)
"""

import hashlib
import json
import os
import string
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from rezero.evaluation.evaluate import Judge
from rezero.extras.remote import connect
from rezero.files import append_jsonl, read_jsonl, resolve
from rezero.judge import f1
from rezero.policy.load import load_policy
from rezero.protocol import neutralize
from rezero.search.base import SearchError
from rezero.text import clean

Backend = Callable[[list[str]], Iterable[str]]  # prompts → replies, in the same order

CACHE = ".cache/judge/replies.jsonl"
MAX_ANSWER = 400  # characters of a given answer, and of a reply, that are read
PROMPT = Path(__file__).with_name("judge_prompt.md").read_text("utf-8").strip()


def named_judge(name: str) -> Judge | None:
    """The judge that a notebook names: "", "f1", "URL MODEL" (OpenAI-compatible), a model's folder or hub name."""
    if not isinstance(name, str):
        raise ValueError(f"a judge is {name!r:.80}; want '', 'f1', 'URL MODEL', or a model's folder or hub name")
    if not name:
        return None
    if name == "f1":  # of the text judges, an F1 of at least 0.8 agrees best with the labelled pairs
        return text_judge(lambda given, answers: f1(given, answers) >= 0.8)
    url, _, model = name.partition(" ")
    return model_judge(openai_compatible(url, model) if model else local(name), name)


def text_judge(is_right: Callable[[str | None, Iterable[str]], bool]) -> Judge:
    """A judge that compares texts, as `judge.exact_match` does, and is never undecided."""
    return lambda pairs: ["right" if is_right(given, answers) else "wrong" for _, answers, given in pairs]


def model_judge(backend: Backend, name: str, cache: str | Path = CACHE) -> Judge:
    """A judge that asks `backend` each prompt once; a blank answer is wrong without asking.

    Replies are kept in the file `cache` by `name`, which must differ between models, and prompt.
    """
    rows = read_jsonl(cache, appended=True) if resolve(cache).exists() else ()
    known = {row["key"]: row["reply"] for row in rows}

    def judge(pairs: list[tuple[str, Iterable[str], str | None]]) -> list[str]:
        prompts = [build_prompt(*pair) if (pair[2] or "").strip() else "" for pair in pairs]
        keys = {prompt: hashlib.sha256(f"{name}\n{prompt}".encode()).hexdigest() for prompt in prompts}
        new = [prompt for prompt, key in keys.items() if prompt and key not in known]
        for prompt, reply in zip(new, backend(new), strict=True):
            known[keys[prompt]] = clean(reply[:MAX_ANSWER])
            with suppress(OSError):  # without a cache that can be written, it is done without
                append_jsonl(cache, {"key": keys[prompt], "judge": name, "reply": known[keys[prompt]]})
        return [verdict(known[keys[prompt]]) if prompt else "wrong" for prompt in prompts]

    return judge


def build_prompt(question: str, answers: Iterable[str], given: str) -> str:
    """All that the judge sees. The texts are JSON strings without tags or chat tokens, so nothing in one can end it."""
    cut = given if len(given) <= MAX_ANSWER else f"{given[:MAX_ANSWER]}…"
    texts = {"question": question, "answers": list(answers), "given": cut}
    quoted = {key: neutralize(json.dumps(text, ensure_ascii=False)) for key, text in texts.items()}
    return clean(PROMPT.format(**quoted))


def verdict(reply: str) -> str:
    """By the first word alone, without punctuation and case: yes → "right", no → "wrong", anything else "undecided"."""
    first = next(iter(reply.split(maxsplit=1)), "")
    return {"yes": "right", "no": "wrong"}.get(first.strip(string.punctuation).lower(), "undecided")


def openai_compatible(url: str, model: str) -> Backend:
    """Replies of a server with OpenAI's interface, 8 requests at a time; `url` is the part before "/chat/completions".

    Failures that may pass are tried again four times, after 0, 2, 4 and 8 s; ConnectionError if the last try fails.
    """
    key = os.environ.get("JUDGE_API_KEY")  # not every server wants one
    ask = connect(url.rstrip("/"), 60, 4, {"Authorization": f"Bearer {key}"} if key else {}, backoff=1)

    def reply(prompt: str) -> str:
        body = {"model": model, "messages": [{"role": "user", "content": prompt}], "temperature": 0, "max_tokens": 8}
        try:
            return ask("/chat/completions", [body], lambda said: str(said["choices"][0]["message"]["content"] or ""))
        except SearchError as error:
            raise ConnectionError(f"model {model!r}: {error}; want a completion") from error

    def replies(prompts: list[str]) -> Iterator[str]:
        with ThreadPoolExecutor(8) as pool:
            yield from pool.map(reply, prompts)

    return replies


def local(name: str, batch: int = 16) -> Backend:
    """Replies of a model by its folder or its name on the hub, `batch` prompts at a time."""
    model = load_policy(name)

    def replies(prompts: list[str]) -> Iterator[str]:
        ids = [model.prompt_ids([{"role": "user", "content": prompt}]) for prompt in prompts]
        for start in range(0, len(ids), batch):
            for turn in model.start(ids[start : start + batch], temperature=0).generate(4):
                yield model.decode([i for i in turn if i != model.end_of_turn])

    return replies
