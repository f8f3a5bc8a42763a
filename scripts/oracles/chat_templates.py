#!/usr/bin/env python3
"""Makes tests/data/chat_templates/*.json: what jinja2, configured as transformers configures it, renders.

    conversations.json  every template of tests/data/chat_templates/templates with every conversation below
    snippets.json       small templates, one feature each; "error" where jinja2 raises
    chat_templates.py DIRECTORY   also writes DIRECTORY/expected.json for the *.jinja files there (for trying others)
Tested with jinja2 3.1.6.
"""

import datetime
import json
import pathlib
import sys

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from chat_snippets import SNIPPETS, VARIABLES  # noqa: E402

DATA = pathlib.Path(__file__).resolve().parents[2] / "tests" / "data" / "chat_templates"
NOW = 1753700000.25  # 2025-07-28 10:53:20 UTC


class Generation(jinja2.ext.Extension):
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_pass"), [], [], body).set_lineno(line)

    def _pass(self, caller):
        return caller()


def environment():
    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    def strftime_now(format):
        return datetime.datetime.fromtimestamp(NOW, datetime.timezone.utc).replace(tzinfo=None).strftime(format)

    out = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])
    out.filters["tojson"] = tojson
    out.globals["raise_exception"] = raise_exception
    out.globals["strftime_now"] = strftime_now
    return out


def render(source, variables):
    try:
        return {"text": environment().from_string(source).render(**variables)}
    except Exception as problem:  # whatever Python raises is an error of the template
        return {"error": f"{type(problem).__name__}: {problem}"}


def user(text):
    return {"role": "user", "content": text}


def assistant(text, **more):
    return {"role": "assistant", "content": text, **more}


def call(name, arguments, identity="call00001"):
    return {"id": identity, "type": "function", "function": {"name": name, "arguments": arguments}}


SYSTEM = {"role": "system", "content": "You answer briefly."}
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a \"city\" <now> & later",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "where – ö"}, "days": {"type": ["integer", "null"], "default": 1.5}},
            "required": ["city"],
        },
    },
}
CALLS = [user("Weather in Köln?"), assistant("", tool_calls=[call("get_weather", {"city": "Köln", "days": 2})])]
RESULT = {"role": "tool", "name": "get_weather", "tool_call_id": "call00001", "content": "{\"sun\": true}"}
CONVERSATIONS = {
    "one": {"messages": [user("Hi")]},
    "system": {"messages": [SYSTEM, user("Hi there")]},
    "turns": {"messages": [SYSTEM, user("a"), assistant("b"), user("c"), assistant("d"), user("e")]},
    "no_prompt": {"messages": [user("a"), assistant("b")], "add_generation_prompt": False},
    "prefix": {"messages": [user("a"), assistant("b")]},
    "empty": {"messages": [user(""), assistant(""), user("")]},
    "no_messages": {"messages": []},
    "unicode": {"messages": [user("  ¿Qué? 日本語 👩‍👩‍👧 \u3000\n"), assistant("\u00a0ß \t"), user("'quotes' \"and\" \\slashes\\ <b>&amp;</b>")]},
    "thinking_off": {"messages": [SYSTEM, user("2+2?")], "enable_thinking": False},
    "thinking_on": {"messages": [SYSTEM, user("2+2?")], "enable_thinking": True},
    "no_think": {"messages": [{"role": "system", "content": "Be short. /no_think"}, user("2+2?"), assistant("4"), user("3+3?")]},
    "thoughts": {"messages": [user("a"), assistant("<think>\nhm\n</think>\n\nb"), user("c"), assistant("<think>\nso\n</think>\nd")]},
    "reasoning": {"messages": [user("a"), assistant("b", reasoning_content="why"), user("c"), assistant("d", reasoning_content="because")]},
    "tools": {"messages": [user("Weather?")], "tools": [TOOL]},
    "tools_system": {"messages": [SYSTEM, user("Weather?")], "tools": [TOOL, TOOL]},
    "call": {"messages": CALLS, "tools": [TOOL]},
    "result": {"messages": CALLS + [RESULT], "tools": [TOOL]},
    "results": {
        "messages": CALLS[:1]
        + [assistant(None, tool_calls=[call("get_weather", {"city": "A"}), call("get_weather", {"city": "B"}, "call00002")])]
        + [RESULT, dict(RESULT, tool_call_id="call00002"), assistant("Sunny."), user("Thanks")],
        "tools": [TOOL],
    },
    "text_arguments": {"messages": [user("x"), assistant("", tool_calls=[call("f", '{"a": 1}')]), RESULT, assistant("done")]},
    "no_tools_result": {"messages": CALLS + [RESULT, assistant("Sunny."), user("ok")]},
    "tools_in_user": {"messages": [SYSTEM, user("x")], "tools": [TOOL], "tools_in_user_message": False, "date_string": "1 Jan 2025"},
    "parts": {"messages": [user([{"type": "text", "text": "hello"}, {"type": "image"}])]},
    "bad_roles": {"messages": [user("a"), user("b"), {"role": "critic", "content": "c"}]},
}


def variables_of(conversation):
    defaults = {"tools": None, "documents": None, "add_generation_prompt": True, "bos_token": "<s>", "eos_token": "</s>"}
    return {**defaults, **conversation}


def all_conversations(folder):
    out = []
    for path in sorted(folder.glob("*.jinja")):
        source = path.read_text()
        for name, conversation in CONVERSATIONS.items():
            out.append({"template": path.name, "name": name, **render(source, variables_of(conversation))})
    return out


def write(path, value):
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n")


def main():
    if len(sys.argv) > 1:
        folder = pathlib.Path(sys.argv[1])
        write(folder / "expected.json", {"now": NOW, "conversations": CONVERSATIONS, "renderings": all_conversations(folder)})
        return
    renderings = all_conversations(DATA / "templates")
    write(DATA / "conversations.json", {"now": NOW, "conversations": CONVERSATIONS, "renderings": renderings})
    snippets = [{"source": source, **render(source, variables_of(VARIABLES))} for source in SNIPPETS]
    write(DATA / "snippets.json", {"now": NOW, "variables": VARIABLES, "snippets": snippets})


if __name__ == "__main__":
    main()
