"""Transcripts from elsewhere, turned into the plain chat messages that `protocol.Episode.from_messages` reads.

A string as Search-R1 (arXiv 2503.09516) writes it does not say who wrote what. There, generation stops after a
`</search>`, so a block of information counts as the environment's only directly after one. A block that the policy
wrote anywhere else stays part of its turn.
"""

import json
import re
from collections.abc import Iterator

ROLES = ("system", "developer", "user", "assistant", "tool", "function", "ipython")
SEARCH_TOOL = re.compile(r"search|retriev|query|lookup", re.IGNORECASE)
QUERY_KEYS = ("query", "queries", "q", "search_query", "keywords", "question", "input", "text")

_TAG = re.compile(r"</?(?:think|search|answer)>")
_OPEN, _CLOSE = "<information>", "</information>"
# The end of a turn's last action: of several searches in a row the last one. Not the tags that Search-R1 quotes in its
# words for a malformed turn ("between <search> and </search>").
_TURN_END = re.compile(r"(?<!<search> and )</search>(?!\s*<search>)|(?<!<answer> and )</answer>")
# Where a chat was decoded without its special tokens, the name of a role stands between a query and its block.
_BLOCK = re.compile(r"(?<=</search>)\s*(?:(?:user|tool|ipython)\s*\n\s*)?<information>")
_ROLE_LINE = re.compile(r"\A\s*assistant\s*\n")
_REFUSAL = re.compile(r"\n(My previous action is invalid\..*?Let me try again\.)\n", re.DOTALL)  # Search-R1's words
_CHAT_TOKEN = re.compile(r"<\|[^|<>]*\|>")
_PROMPT = re.compile(r"(\s*<\|.*?)<\|(?:im_start|start_header_id)\|>assistant\b", re.DOTALL)


def read_transcript(transcript: list[dict] | str | dict) -> tuple[list[dict], list[dict]]:
    """(prompt, messages), each a list of {"role", "content"}; the messages begin with the assistant's first.

    A transcript is chat messages, also OpenAI's with tool calls; or a string, which begins with the policy's words or
    is a whole chat in its template; or an object with "messages", or with "prompt" and "completion" (TRL's), each of
    either kind. A single assistant message may contain a whole trajectory and is read as a string is.
    """
    if isinstance(transcript, dict) and "completion" in transcript:
        before = transcript.get("prompt") or []
        before = _read_messages([{"role": "user", "content": before}] if isinstance(before, str) else before)
        prompt, messages = read_transcript(transcript["completion"])
        return before + prompt, messages
    if isinstance(transcript, dict) and "messages" in transcript:
        transcript = transcript["messages"]
    if isinstance(transcript, str):
        chat = _PROMPT.match(transcript)  # a whole chat: its prompt may explain the tags, so it is set apart first
        prompt = [{"role": "user", "content": _CHAT_TOKEN.sub("", chat[1]).strip()}] if chat else []
        said = transcript[chat.end() :] if chat else transcript
        return prompt, list(_split(_CHAT_TOKEN.sub("", said)))
    messages = _read_messages(transcript)
    start = next((i for i, message in enumerate(messages) if message["role"] == "assistant"), len(messages))
    prompt, messages = messages[:start], messages[start:]
    if len(messages) == 1 and _BLOCK.search(messages[0]["content"]):
        messages = list(_split(messages[0]["content"]))
    return prompt, messages


def _split(text: str) -> Iterator[dict]:
    """One message per part of a text that policy and environment wrote in turns, in order."""
    at, block = 0, _BLOCK.search(text)
    while block:
        yield from _turns(text[at : block.start()])
        end = _block_end(text, block.end())
        yield {"role": "user", "content": f"{_OPEN}{text[block.end() : end]}{_CLOSE}"}
        at = end + len(_CLOSE)
        block = _BLOCK.search(text, at)
    yield from _turns(text[at:])


def _turns(text: str) -> Iterator[dict]:
    """The policy's turns, and between them Search-R1's replies to malformed ones, which the environment wrote."""
    for i, part in enumerate(_REFUSAL.split(text)):
        content = _ROLE_LINE.sub("", part).strip()
        if content:
            yield {"role": "user" if i % 2 else "assistant", "content": content}


def _block_end(text: str, start: int) -> int:
    """Where the block of information that begins at `start` ends: at the first `</information>` that can be its end.

    A passage may contain any tag. The true end is followed by a turn of the policy, and then by the next block or by
    the end of the text. Therefore a `</information>` is not the end when before the next one

    - no block opens: a turn does not close a block that it did not open, so the next one belongs to the same passage;
    - or an action closes that no block follows: generation would have stopped there, so the passage quoted it.

    In doubt, text counts as the environment's. A block that was cut off ends with the text.
    """
    end = text.find(_CLOSE, start)
    last = text.rfind(_CLOSE)
    while start <= end < last:  # the last `</information>` of the text is an end in any case
        after = end + len(_CLOSE)
        next_close = text.find(_CLOSE, after)
        if _OPEN not in text[after:next_close]:
            end = next_close
            continue
        action = _TURN_END.search(text, after, last)
        if not action or _BLOCK.match(text, action.end()):
            return end
        end = text.find(_CLOSE, action.end())
    return len(text) if end < 0 else end


def _read_messages(messages) -> list[dict]:
    if not isinstance(messages, list | tuple):
        want = 'a list of {"role", "content"}, a string, or an object with "messages" or "prompt" and "completion"'
        raise ValueError(f"a transcript is of type {type(messages).__name__}; want {want}")
    has_tools = any(isinstance(message, dict) and message.get("tool_calls") for message in messages)
    read = []
    for i, message in enumerate(messages):
        try:
            read.append(_read_message(message, is_final=has_tools and i == len(messages) - 1))
        except ValueError as error:
            raise ValueError(f"message {i}: {error}") from None
    return read


def _read_message(message, is_final: bool) -> dict:
    """The message in our tags; text beside a call is a thought, and the final text of a chat with tools an answer."""
    if not isinstance(message, dict):
        raise ValueError(f'want {{"role", "content"}}, got {type(message).__name__}')
    role, content, calls = message.get("role"), message.get("content"), message.get("tool_calls") or []
    if role not in ROLES:
        raise ValueError(f"role {role!r}; allowed: {', '.join(ROLES)}")
    content = content or "" if role == "assistant" else content
    try:
        text = content if isinstance(content, str) else "".join(part["text"] for part in content)
    except (KeyError, TypeError):
        want = 'content must be text or a list of {"type": "text", "text"}'
        raise ValueError(f"{want}, got {content!r:.80}") from None
    if role != "assistant":
        return {"role": role, "content": text}
    if not isinstance(calls, list):
        raise ValueError(f"tool_calls must be a list, got {type(calls).__name__}")
    if calls and text.strip() and not _TAG.search(text):
        text = f"<think>{text}</think>"
    elif is_final and not calls and text.strip() and not _TURN_END.search(text):
        thought, mark, answer = text.rpartition("</think>")
        text = f"{thought}{mark}<answer>{answer.strip()}</answer>"
    reasoning = message.get("reasoning_content") or message.get("reasoning")
    said = [f"<think>{reasoning}</think>" if reasoning else "", text, *map(_call, calls)]
    return {"role": role, "content": "".join(said)}


def _call(call) -> str:
    """A tool call as the searches that it asks for. Any other call stays as text, which makes the turn malformed."""
    function = call.get("function", call) if isinstance(call, dict) else {}
    try:
        arguments = function["arguments"]
        arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
        key = next(key for key in (*QUERY_KEYS, *arguments) if key in arguments)
        queries = arguments[key] if isinstance(arguments[key], list) else [arguments[key]]
        if SEARCH_TOOL.search(function["name"]):
            return "".join("<search>" + query + "</search>" for query in queries)
    except (KeyError, TypeError, ValueError, StopIteration):
        pass  # the policy called it wrongly
    return f"<tool_call>{json.dumps(call, ensure_ascii=False, default=str)}</tool_call>"
