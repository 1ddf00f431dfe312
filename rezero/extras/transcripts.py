"""Transcripts from elsewhere, turned into the plain chat messages that `protocol.Episode.from_messages` reads.

A string as Search-R1 (arXiv 2503.09516) writes it does not say who wrote what. There, generation stops after a
`</search>`, so a block of information counts as the environment's only directly after one. A block anywhere else, or in
a message of the policy's own, stays part of its turn and is no evidence.
"""

import json
import re
import warnings
from collections.abc import Iterator
from contextlib import suppress

from rezero.files import parse_json

ROLES = ("system", "developer", "user", "assistant", "tool", "function", "ipython")
SEARCH_TOOL = re.compile(r"search|retriev|query|look_?up|find|google|wiki|brows", re.IGNORECASE)
QUERY_KEYS = ("query", "queries", "q", "search_query", "keywords", "question", "input", "text")
ARGUMENT_KEYS = ("arguments", "parameters", "input", "args")  # of a call, by OpenAI, Llama, Anthropic and others
NO_CALL = (LookupError, TypeError, ValueError, AttributeError, RecursionError)  # where something else is read as a call

_TAG = re.compile(r"</?(?:think|search|answer)>")
_ACTION_TAG = re.compile(r"<(?:search|answer)>")
# A call that a model writes into its text, as Llama, Qwen and Hermes do, and what may stand around it.
_CALL_START = re.compile(r'\{\s*"(?:type|id|name|tool|function|arguments|parameters)"\s*:')
_CALL_END = re.compile(r"</?tool_call>|<\|python_tag\|>|\[TOOL_CALLS\]|```(?:json)?")
_REASONING = re.compile(r"<(/?)(?:reasoning|thinking)>")  # as think is called elsewhere
_NAMES = "information|documents|results?|tool_response"  # of the tags around retrieved text
_WRAPPED = re.compile(rf"\A\s*<({_NAMES})>\n?(.*?)\n?</\1>\s*\Z", re.DOTALL)
_OWN = re.compile(rf"<({_NAMES})>.*?</\1>", re.DOTALL)
# The end of a turn's last action: of several searches in a row the last one. Not the tags that Search-R1 quotes in its
# words for a malformed turn ("between <search> and </search>").
_TURN_END = re.compile(r"(?<!<search> and )</search>(?!\s*<search>)|(?<!<answer> and )</answer>|</tool_call>")
# Where a chat was decoded without its special tokens, the name of a role stands between a query and its block.
_BLOCK = re.compile(rf"(?:(?<=</search>)|(?<=</tool_call>))\s*(?:(?:user|tool|ipython)\s*\n\s*)?<(?P<name>{_NAMES})>")
_ROLE_LINE = re.compile(r"\A\s*assistant\s*\n")
_REFUSAL = re.compile(r"\n(My previous action is invalid\..*?Let me try again\.)\n", re.DOTALL)  # Search-R1's words
_CHAT_TOKEN = re.compile(r"<\|[^|<>]*\|>")
_PROMPT = re.compile(r"(\s*<\|.*?)<\|(?:im_start|start_header_id)\|>assistant\b", re.DOTALL)


def read_transcript(transcript: list[dict] | str | dict) -> tuple[list[dict], list[dict]]:
    """(prompt, messages), each a list of {"role", "content"}; the messages begin with the assistant's first.

    A transcript is chat messages, also OpenAI's with tool calls; or a string, which begins with the policy's words or
    is a whole chat in its template; or an object with "messages", or with "prompt" and "completion" (TRL's), each of
    either kind. Calls of search tools become searches, whether they stand in "tool_calls" or in the text. A warning
    counts what the assistant said that is neither a search nor an answer.
    """
    prompt, messages = _read(transcript)
    said = [message["content"] for message in messages if message["role"] == "assistant"]
    calls = [text[text.index("<tool_call>") :] for text in said if "<tool_call>" in text]
    counts = {
        f"have a call that is not read as a search, such as {''.join(calls[:1]):.80}": len(calls),
        "hold retrieved text of their own, which is no evidence": sum(map(bool, map(_OWN.search, said))),
        "hold neither a search nor an answer": 0 if any(map(_ACTION_TAG.search, said)) else len(said) - len(calls),
    }
    for what, count in counts.items():
        if count:
            warnings.warn(f"transcript: {count} of {len(said)} assistant messages {what}", stacklevel=3)
    return prompt, messages


def _read(transcript) -> tuple[list[dict], list[dict]]:
    if isinstance(transcript, dict) and "completion" in transcript:
        before = transcript.get("prompt") or []
        before = _read_messages([{"role": "user", "content": before}] if isinstance(before, str) else before)
        prompt, messages = _read(transcript["completion"])
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
    return messages[:start], messages[start:]


def _split(text: str) -> Iterator[dict]:
    """One message per part of a text that policy and environment wrote in turns, in order."""
    at, block = 0, _BLOCK.search(text)
    while block:
        yield from _turns(text[at : block.start()])
        end = _block_end(text, block.end(), block["name"])
        yield {"role": "user", "content": f"<information>{text[block.end() : end]}</information>"}
        at = end + len(f"</{block['name']}>")
        block = _BLOCK.search(text, at)
    yield from _turns(text[at:])


def _turns(text: str) -> Iterator[dict]:
    """The policy's turns, and between them Search-R1's replies to malformed ones, which the environment wrote."""
    for i, part in enumerate(_REFUSAL.split(text)):
        content = _ROLE_LINE.sub("", part).strip()
        if content:
            yield {"role": "user", "content": content} if i % 2 else {"role": "assistant", "content": _tagged(content)}


def _block_end(text: str, start: int, name: str) -> int:
    """Where the block of information that begins at `start` ends: at the first `</information>` that can be its end.

    `name` is that of its tag, if it is another one. A passage may contain any tag, but its true end is followed by a
    turn of the policy, and then by the next block or the end of the text. Therefore a `</information>` is not the end
    if before the next one no block opens (a turn closes no block that it did not open), or an action closes that no
    block follows (generation would have stopped there). In doubt, text counts as the environment's.
    """
    opens, closes = f"<{name}>", f"</{name}>"
    end = text.find(closes, start)
    last = text.rfind(closes)
    while start <= end < last:  # the last `</information>` of the text is an end in any case
        after = end + len(closes)
        next_close = text.find(closes, after)
        if opens not in text[after:next_close]:
            end = next_close
            continue
        action = _TURN_END.search(text, after, last)
        if not action or _BLOCK.match(text, action.end()):
            return end
        end = text.find(closes, action.end())
    return len(text) if end < 0 else end


def _read_messages(messages) -> list[dict]:
    if not isinstance(messages, list | tuple):
        want = 'a list of {"role", "content"}, a string, or an object with "messages" or "prompt" and "completion"'
        raise ValueError(f"a transcript is of type {type(messages).__name__}; want {want}")
    read = []  # (role, text, calls)
    for i, message in enumerate(messages):
        try:
            read.append(_read_message(message))
        except ValueError as error:
            raise ValueError(f"message {i}: {error}") from None
    has_tools = any(calls for *_, calls in read)
    last = max((i for i, (role, *_) in enumerate(read) if role == "assistant"), default=-1)  # thanks may follow it
    tagged = []
    for i, (role, text, calls) in enumerate(read):
        if role == "assistant":
            text = _tagged(text, calls, has_tools and i == last)
        else:
            text = _WRAPPED.sub(r"<information>\n\2\n</information>", text)
        tagged.append({"role": role, "content": text})
    return tagged


def _read_message(message) -> tuple[str, str, list]:
    """Role, text without calls, and the calls of a message."""
    if not isinstance(message, dict):
        raise ValueError(f'want {{"role", "content"}}, got {type(message).__name__}')
    role, content, calls = message.get("role"), message.get("content"), message.get("tool_calls") or []
    if role not in ROLES:
        raise ValueError(f"role {role!r:.80}; allowed: {', '.join(ROLES)}")
    content = content or "" if role == "assistant" else content
    try:
        text = content if isinstance(content, str) else "".join(part["text"] for part in content)
    except (KeyError, TypeError):
        want = 'content must be text or a list of {"type": "text", "text"}'
        raise ValueError(f"{want}, got {content!r:.80}") from None
    if role != "assistant":
        return role, text, []
    calls = _parsed(calls)
    if not isinstance(calls, list):
        raise ValueError(f"tool_calls must be a list, got {type(calls).__name__}")
    text, written = _take_calls(text)
    reasoning = message.get("reasoning_content") or message.get("reasoning")
    old = [message["function_call"]] if message.get("function_call") else []
    return role, f"<think>{reasoning}</think>{text}" if reasoning else text, [*calls, *old, *written]


def _take_calls(text: str) -> tuple[str, list]:
    """`text` without the calls in it that are written as JSON, and those calls; none beside a search or an answer."""
    rest, calls, at = "", [], 0
    for start in () if _ACTION_TAG.search(text) else _CALL_START.finditer(text, max(0, text.rfind("</think>"))):
        with suppress(*NO_CALL):
            call, end = json.JSONDecoder().raw_decode(text, start.start())
            _name_and_arguments(call)
            if start.start() >= at:  # else it is inside the last call
                calls.append(call)
                rest, at = rest + text[at : start.start()], end
    return (_CALL_END.sub("", rest + text[at:]), calls) if calls else (text, [])


def _tagged(text: str, calls: list | None = None, is_final: bool = False) -> str:
    """A message of the assistant in our tags; text beside a call is a thought, a chat's final text an answer.

    `calls` are those that were taken out of the text; None if that is still to be done.
    """
    if calls is None:
        text, calls = _take_calls(text)
    if calls or is_final:
        text = _REASONING.sub(r"<\1think>", text).strip()
    if calls and text and not _TAG.search(text):
        text = f"<think>{text}</think>"
    elif is_final and not calls and text and not _TURN_END.search(text):
        thought, mark, answer = text.rpartition("</think>")
        text = f"{thought}{mark}<answer>{answer.strip()}</answer>"
    return text + "".join(map(_search_of, calls))


def _search_of(call) -> str:
    """A tool call as the searches that it asks for. Any other call stays as text, which makes the turn malformed."""
    with suppress(*NO_CALL):  # where the policy called it wrongly
        name, arguments = _name_and_arguments(_parsed(call))
        lists = {key: [value] if isinstance(value, str) else value for key, value in arguments.items()}
        texts = {key: value for key, value in lists.items() if isinstance(value, list) and {*map(type, value)} == {str}}
        named = [key for key in QUERY_KEYS if key in texts]
        queries = texts[named[0]] if named or len(texts) != 1 else next(iter(texts.values()))
        if SEARCH_TOOL.search(name) or named[:1] == ["query"]:
            return "".join("<search>" + query + "</search>" for query in queries)
    return f"<tool_call>{json.dumps(call, ensure_ascii=False, default=str)}</tool_call>"


def _name_and_arguments(call) -> tuple[str, dict]:
    """Of a call as OpenAI, Llama or Hermes write it. An exception if it is none, or a tool's description."""
    function = call.get("function", call)
    function = call | {"name": function} if isinstance(function, str) else function
    arguments = _parsed(next((function[key] for key in ARGUMENT_KEYS if key in function), None))
    name = function.get("name") or call["tool"]
    if not isinstance(arguments, dict) or "properties" in arguments:
        raise ValueError("no call")
    return name, arguments


def _parsed(value):
    """The value that a string of JSON holds; anything else as it is."""
    return parse_json(value) if isinstance(value, str) else value
