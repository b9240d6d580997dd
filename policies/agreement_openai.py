"""OpenAI answers: chat and text completions, whole or as a stream that is put together again."""

from __future__ import annotations

from dataclasses import dataclass, field

from policies.agreement_findings import Findings
from policies.agreement_forms import Comparison, Json, Malformed, canonical, dictionary, parse_json, sequence
from policies.agreement_json import compare as compare_json


@dataclass(slots=True)
class Call:
    """A tool call; its id is chance and not compared."""

    name: str = ""
    arguments: str = ""


@dataclass(slots=True)
class Choice:
    content: str = ""
    refusal: str = ""
    finish: str = ""
    calls: dict[int, Call] = field(default_factory=dict)


def events(body: bytes) -> list[str]:
    """The data of each server-sent event, in order. Any bytes give a list."""
    found: list[str] = []
    data: list[str] = []
    text = body.decode("utf-8", "replace").removeprefix("\ufeff")
    for line in [*text.replace("\r\n", "\n").replace("\r", "\n").split("\n"), ""]:
        if not line:
            if data:
                found.append("\n".join(data))
            data = []
        elif line == "data" or line.startswith("data:"):
            data.append(line[5:].removeprefix(" "))
    return found


def documents(body: bytes) -> list[Json]:
    """Each event of a stream as JSON, or as a string where it is none; the final [DONE] left out."""
    found: list[Json] = []
    for data in events(body):
        if data.strip() == "[DONE]":
            break
        try:
            found.append(parse_json(data.encode("utf-8", "surrogatepass")))
        except Malformed:
            found.append(data)
    return found


def is_openai(document: Json) -> bool:
    return isinstance(dictionary(document).get("choices"), list)


def choices(parts: list[Json]) -> dict[int, Choice]:
    """The choices by index, put together from one whole answer or from the chunks of a stream.

    Raises Malformed when there is an error among them, or nothing that is a choice.
    """
    found: dict[int, Choice] = {}
    for part in parts:
        if dictionary(part).get("error"):
            raise Malformed("the answer is an error")
        for place, raw in enumerate(sequence(dictionary(part).get("choices"))):
            data = dictionary(raw)
            index = data.get("index")
            _add(found.setdefault(index if type(index) is int else place, Choice()), data)
    if not found:
        raise Malformed("the answer has no choices")
    return found


def _add(choice: Choice, data: dict[str, Json]) -> None:
    message = dictionary(data.get("message")) or dictionary(data.get("delta"))
    choice.content += _text(data.get("text")) + _text(message.get("content"))
    choice.refusal += _text(message.get("refusal"))
    choice.finish = _text(data.get("finish_reason")) or choice.finish
    old = message.get("function_call")
    calls = [{"index": 0, "function": old}] if isinstance(old, dict) else sequence(message.get("tool_calls"))
    for place, raw in enumerate(calls):
        call = dictionary(raw)
        index = call.get("index")
        kept = choice.calls.setdefault(index if type(index) is int else place, Call())
        function = dictionary(call.get("function"))
        kept.name += _text(function.get("name"))
        kept.arguments += _text(function.get("arguments"))


def _text(value: Json) -> str:
    """Text as it is, parts of content as JSON, nothing as nothing."""
    if isinstance(value, str):
        return value
    return "" if value is None else canonical(value)


def compare(
    primary: dict[int, Choice], shadow: dict[int, Choice], how: Comparison, findings: Findings
) -> None:
    """Content, refusal, finish reason and tool calls (names, and arguments as JSON), choice by choice."""
    for index in sorted({*primary, *shadow}):
        a, b, where = primary.get(index), shadow.get(index), f"choices.{index}"
        if a is None or b is None:
            findings.differ(where, "missing" if a is None else "there", "missing" if b is None else "there")
            continue
        for name in ("content", "refusal", "finish"):
            if getattr(a, name) != getattr(b, name):
                findings.differ(f"{where}.{name}", getattr(a, name), getattr(b, name))
        _compare_calls(where, a, b, how, findings)


def _compare_calls(where: str, a: Choice, b: Choice, how: Comparison, findings: Findings) -> None:
    first = [a.calls[index] for index in sorted(a.calls)]
    second = [b.calls[index] for index in sorted(b.calls)]
    if [call.name for call in first] != [call.name for call in second]:
        names = (", ".join(call.name for call in calls) or "none" for calls in (first, second))
        findings.differ(f"{where}.tool_calls", *names)
        return
    for place, (x, y) in enumerate(zip(first, second, strict=True)):
        compare_json(f"{where}.tool_calls.{place}", _arguments(x), _arguments(y), how, findings)


def _arguments(call: Call) -> Json:
    try:
        return parse_json(call.arguments.encode("utf-8", "surrogatepass"))
    except Malformed:
        return call.arguments
