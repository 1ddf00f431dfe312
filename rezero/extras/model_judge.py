"""A language model as judge, never the policy in training; data/judge/agreement.py measures how well judges do.

The model sees only the question, the accepted answers and the given one, and its reply is read strictly. (In the
original, the policy judged its own transcript, and every reply that contained "yes" counted as a yes.)
"""

import json
import string
from collections.abc import Callable, Iterable
from pathlib import Path

from rezero.evaluation.evaluate import Judge
from rezero.extras.language_model import Backend, cached, named_backend
from rezero.judge import f1
from rezero.protocol import neutralize
from rezero.text import clean

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
    return model_judge(named_backend(name, tokens=8 if " " in name else 4), name)


def text_judge(is_right: Callable[[str | None, Iterable[str]], bool]) -> Judge:
    """A judge that compares texts, as `judge.exact_match` does, and is never undecided."""
    return lambda pairs: ["right" if is_right(given, answers) else "wrong" for _, answers, given in pairs]


def model_judge(backend: Backend, name: str, cache: str | Path = CACHE) -> Judge:
    """A judge that asks `backend` each prompt once; a blank answer is wrong without asking.

    Replies are kept in the file `cache` by `name`, which must differ between models, and prompt.
    """
    ask = cached(backend, name, cache, longest=MAX_ANSWER)

    def judge(pairs: list[tuple[str, Iterable[str], str | None]]) -> list[str]:
        prompts = [build_prompt(*pair) if (pair[2] or "").strip() else "" for pair in pairs]
        replies = iter(ask([prompt for prompt in prompts if prompt]))
        return [verdict(next(replies)) if prompt else "wrong" for prompt in prompts]

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
