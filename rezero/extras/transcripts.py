"""Transcripts from elsewhere → the plain chat messages that `protocol.Episode.from_messages` reads.

Chat messages, also OpenAI's with tool calls; TRL's completions; and single strings, as Search-R1 (arXiv 2503.09516)
writes them. A string does not say who wrote what. There a block of information counts as the environment's only right
after a `</search>`, where generation stops; one that the policy wrote anywhere else stays in its turn's text.
"""

import json
import re
from collections.abc import Iterator

ROLES = ("system", "developer", "user", "assistant", "tool", "function", "ipython")

SEARCH_TOOL = re.compile(r"search|retriev|query|lookup", re.IGNORECASE)

QUERY_KEYS = ("query", "queries", "q", "search_query", "keywords", "question", "input", "text")

_TAG = re.compile(r"</?(?:think|search|answer)>")

# Not of Search-R1's words for a malformed turn ("between <search> and </search>"), and the last of several queries.
_TURN_END = re.compile(r"(?<!<search> and )</search>(?!\s*<search>)|(?<!<answer> and )</answer>")

_OPEN, _CLOSE = "<information>", "</information>"

# Between a query and its block stands a role's name where a chat was decoded without its special tokens.
_BLOCK = re.compile(r"(?<=</search>)\s*(?:(?:user|tool|ipython)\s*\n\s*)?<information>")

_REFUSAL = re.compile(r"\n(My previous action is invalid\..*?Let me try again\.)\n", re.DOTALL)  # Search-R1's own words

_CHAT_TOKEN = re.compile(r"<\|[^|<>]*\|>")

_PROMPT = re.compile(r"(\s*<\|.*?)<\|(?:im_start|start_header_id)\|>assistant\b", re.DOTALL)

_ROLE_LINE = re.compile(r"\s*assistant\s*\n")


def plain(transcript) -> tuple[list[dict], list[dict]]:
    """(prompt, messages) as `[{"role", "content"}, …]`; the messages begin with the assistant's first.

    `transcript`: chat messages; a string, which begins with the policy's words or is a whole chat as its template
    wrote it; or an object with "messages", or with "prompt" and "completion", each of either kind. A lone assistant
    message may hold a whole trajectory and is read as a string is.

    Raises:
        ValueError: something else, a message without a known role or without text; names the message.
    """
    if isinstance(transcript, dict) and "completion" in transcript:
        before, (prompt, messages) = transcript.get("prompt") or [], plain(transcript["completion"])
        before = [{"role": "user", "content": before}] if isinstance(before, str) else _checked(before)
        return before + prompt, messages
    if isinstance(transcript, dict) and "messages" in transcript:
        transcript = transcript["messages"]
    if isinstance(transcript, str):
        return _from_string(transcript)
    messages = _checked(transcript)
    start = next((i for i, message in enumerate(messages) if message["role"] == "assistant"), len(messages))
    prompt, messages = messages[:start], messages[start:]
    whole = len(messages) == 1 and _BLOCK.search(messages[0]["content"])
    return prompt, list(_spoken(messages[0]["content"])) if whole else messages


def _from_string(text: str) -> tuple[list[dict], list[dict]]:
    prompt = []
    if chat := _PROMPT.match(text):  # a whole chat as its template wrote it: the prompt may explain the tags
        prompt = [{"role": "user", "content": _CHAT_TOKEN.sub("", chat[1]).strip()}]
        text = text[chat.end() :]
    return prompt, list(_spoken(_CHAT_TOKEN.sub("", text)))


def _spoken(text: str) -> Iterator[dict]:
    """One text of policy and environment → a message for each part of it, in order."""
    at = 0
    while block := _BLOCK.search(text, at):
        yield from _turns(text[at : block.start()])
        end = _block_end(text, block.end())
        yield {"role": "user", "content": f"{_OPEN}{text[block.end() : end]}{_CLOSE}"}
        at = end + len(_CLOSE)
    yield from _turns(text[at:])


def _turns(text: str) -> Iterator[dict]:
    for i, part in enumerate(_REFUSAL.split(text)):
        role = _ROLE_LINE.match(part)
        if part := part[role.end() if role else 0 :].strip():
            yield {"role": "user" if i % 2 else "assistant", "content": part}


def _block_end(text: str, start: int) -> int:
    """Where the block that begins at `start` ends: before the first `</information>` that leaves a possible turn.

    A passage may hold any tag. No turn closes a block that it did not open, and generation stops after a turn's first
    action, so that a block or the end must follow it. What mimics that, too, cannot be told from a turn, and in doubt
    text is the environment's. A block that was cut off ends with the text.
    """
    end, last = text.find(_CLOSE, start), text.rfind(_CLOSE)
    while start <= end < last:
        after = end + len(_CLOSE)
        closing = text.find(_CLOSE, after)
        if _OPEN not in text[after:closing]:
            end = closing
        elif (action := _TURN_END.search(text, after, last)) and not _BLOCK.match(text, action.end()):
            end = text.find(_CLOSE, action.end())
        else:
            break
    return len(text) if end < 0 else end


def _checked(messages) -> list[dict]:
    if not isinstance(messages, list | tuple):
        want = 'a list of {"role", "content"}, a string, or an object with "messages" or "prompt" and "completion"'
        raise ValueError(f"a transcript is of type {type(messages).__name__}; want {want}")
    for i, message in enumerate(messages):
        if not isinstance(message, dict):
            raise ValueError(f'message {i}: want {{"role", "content"}}, got {type(message).__name__}')
        if message.get("role") not in ROLES:
            raise ValueError(f"message {i}: role {message.get('role')!r}; allowed: {', '.join(ROLES)}")
    tools = any(message.get("tool_calls") for message in messages)
    return [
        {"role": message["role"], "content": _content(message, f"message {i}", tools and i == len(messages) - 1)}
        for i, message in enumerate(messages)
    ]


def _content(message: dict, where: str, answers: bool) -> str:
    """A message's text in our tags; `answers`: one without a call is the final answer of a chat with tools.

    What an assistant says beside a call is its thought, and so is `reasoning_content`.
    """
    if message["role"] != "assistant":
        return _text(message.get("content"), where)
    calls, text = message.get("tool_calls") or [], _text(message.get("content") or "", where)
    if not isinstance(calls, list):
        raise ValueError(f"{where}: tool_calls must be a list, got {type(calls).__name__}")
    if calls and text.strip() and not _TAG.search(text):
        text = f"<think>{text}</think>"
    elif answers and not calls and text.strip() and not _TURN_END.search(text):
        thought, mark, answer = text.rpartition("</think>")
        text = f"{thought}{mark}<answer>{answer.strip()}</answer>"
    reasoning = message.get("reasoning_content") or message.get("reasoning")
    return (f"<think>{reasoning}</think>" if reasoning else "") + text + "".join(map(_call, calls))


def _text(content, where: str) -> str:
    parts = [{"text": content}] if isinstance(content, str) else content
    if not isinstance(parts, list) or not all(isinstance(p, dict) and isinstance(p.get("text"), str) for p in parts):
        raise ValueError(f'{where}: content must be text or a list of {{"type": "text", "text"}}, got {content!r:.80}')
    return "".join(part["text"] for part in parts)


def _call(call) -> str:
    """A tool call as the searches it asks for; any other call as text, which makes the turn malformed."""
    function = call.get("function", call) if isinstance(call, dict) else {}
    try:
        arguments = function["arguments"]
        arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
        key = next((key for key in QUERY_KEYS if key in arguments), None) or next(iter(arguments))
        queries = arguments[key] if isinstance(arguments[key], list) else [arguments[key]]
        if SEARCH_TOOL.search(function["name"]):
            return "".join("<search>" + query + "</search>" for query in queries)
    except (KeyError, TypeError, ValueError, StopIteration):
        pass  # the policy called it wrongly
    return f"<tool_call>{json.dumps(call, ensure_ascii=False, default=str)}</tool_call>"
