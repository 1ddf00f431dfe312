"""What a chat template writes around messages, found by rendering it, and what text must not contain to stay text."""

import re

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from rezero.protocol import TAGS

_SYSTEM, _USER, _ASSISTANT = "xxSYSTEMxx", "xxUSERxx", "xxASSISTANTxx"  # messages that can be found again
_OPEN_THOUGHT = re.compile(r"<think>\s*\Z")
_MARKER = re.compile(r"<[^<>\s]+>|\[[^\[\]\s]+\]")  # such as [INST], which is ordinary text for Llama 2
_BROKEN = {"<": "‹", "[": "❲"}


class Template:
    """A tokenizer's chat template, as a rollout needs it.

    `between` is the text from the end of an assistant's message to the user's, `after` from there to the assistant's
    next, `end` the id that ends the assistant's turn, and `silent` the ids that `Policy.decode` leaves out. ValueError
    if the tokenizer has no template, or one that drops a message or ends no turn.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self.tokenizer, self.name = tokenizer, tokenizer.name_or_path
        if not tokenizer.chat_template:
            raise ValueError(f"{self.name}: the tokenizer has no chat template; want an instruct model's")
        added = {number: token for number, token in tokenizer.added_tokens_decoder.items() if token.content.strip()}
        units = {number: token.content for number, token in added.items()} | _named(tokenizer)
        self.units = {number: text for number, text in units.items() if text not in TAGS}
        self.folds_system = not self._reads_system()
        asked, (head, self.between, self.after) = self._seams()
        # The template may write more before an answer than a generation prompt has, such as gpt-oss's channel. If it
        # is made of special tokens, the prompt gets it, too. A `<think>` is never in the prompt: the policy samples it.
        asked = _OPEN_THOUGHT.sub("", asked)
        more = head[len(asked) :] if head.startswith(asked) else ""
        self.opening = more if any(text in more for text in self.units.values()) else ""
        self.after = _OPEN_THOUGHT.sub("", self.after) + self.opening
        self.end = self._find_end()
        special = {number for number, token in added.items() if token.special} | _named(tokenizer).keys() | {self.end}
        self.silent = special & self.units.keys()
        markers = {text for number, text in self.units.items() if number in special or text[0] in _BROKEN}
        markers |= set(_MARKER.findall(head + self.between + self.after)) - set(TAGS)
        longest_first = sorted((re.escape(text) for text in markers if len(text) > 1), key=len, reverse=True)
        self._markers = re.compile("|".join(longest_first) or r"(?!)")

    def prompt(self, messages: list[dict]) -> str:
        """Chat messages as text, up to where the assistant's first turn begins.

        A system message that the template refuses or drops, as Gemma's does, is put before the user's.
        """
        said = [message | {"content": self.inert(message["content"])} for message in messages]
        if self.folds_system and said[0]["role"] == "system":
            first = said[1] | {"content": f"{said[0]['content']}\n\n{said[1]['content']}"}
            said = [first, *said[2:]]
        return _OPEN_THOUGHT.sub("", self._render(said)) + self.opening

    def inert(self, text: str) -> str:
        """`text` without a special token or mark of the template in it: each one's first character is replaced."""
        return self._markers.sub(lambda found: _BROKEN.get(found[0][0], found[0][0] + " ") + found[0][1:], text)

    def _render(self, messages: list[dict]) -> str:
        return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)

    def _reads_system(self) -> bool:
        messages = [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": _USER}]
        try:
            return _SYSTEM in self._render(messages)
        except TemplateError:
            return False

    def _seams(self) -> tuple[str, list[str]]:
        """A prompt's text; and of a chat's the parts before the assistant's, between it and the user's, and after."""
        said = [("user", "question"), ("assistant", _ASSISTANT), ("user", _USER)]
        messages = [{"role": role, "content": content} for role, content in said]
        try:
            asked, whole = self._render(messages[:1]), self._render(messages)
        except (TemplateError, TypeError) as error:
            said = f"its chat template takes no plain text ({error})"
            raise ValueError(f"{self.name}: {said}; want a text model's") from None
        parts = re.split(f"{_ASSISTANT}|{_USER}", whole)
        if "question" not in asked or len(parts) != 3 or whole.find(_USER) < whole.find(_ASSISTANT):
            raise ValueError(f"{self.name}: its chat template drops or repeats plain messages; want a text model's")
        return asked, parts

    def _find_end(self) -> int:
        """The first token that is a unit of its own after an assistant's message, with at most spaces before it."""
        for number in self.tokenizer(self.between, add_special_tokens=False)["input_ids"]:
            if number in self.units:
                return number
            if self.tokenizer.decode([number]).strip():
                break
        wrote = f"its chat template writes {self.between!r} after an assistant's message"
        raise ValueError(f"{self.name}: {wrote}; want a special token there, with which generation can end")


def _named(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    """The tokens with a role (end of sequence, padding, …), by id."""
    return dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))
