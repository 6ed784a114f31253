#!/usr/bin/env bash
# LLaMA-Factory reads conversations of formatting "openai"; one expects a tool call to be taught as its template writes
# calls, after what the assistant said. OpenAI's own messages hold a call's arguments as a text of JSON. In 0.9.5 that
# text is made JSON once more, in every tool format: qwen learns "arguments": "{\"city\": ...}", a quoted and escaped
# text where its format has an object. Rows whose arguments are an object come out right.
# What the assistant said or thought beside its calls is dropped, and results of two calls are joined by Qwen's marks
# whichever the template. Nothing is raised or said.
# It matters for agents distilled from an API's answers, kept as they came: the student learns calls that a parser
# takes for a text, and no reason to make them.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0 transformers==5.17.0 peft==0.21.2 datasets==4.8.5
venv/bin/pip install --quiet --no-deps llamafactory==0.9.5
export HOME="$dir" HF_HUB_OFFLINE=1 HF_HOME="$dir/hf"
cat > expected <<'EXPECTED'
llamafactory 0.9.5
arguments as OpenAI has them, a text
  qwen    '<tool_call>\n{"name": "weather", "arguments": "{\\"city\\": \\"Rome\\"}"}\n</tool_call>'
  llama3  '{"name": "weather", "parameters": "{\\"city\\": \\"Rome\\"}"}'
  mistral '[{"name": "weather", "arguments": "{\\"city\\": \\"Rome\\"}"}]'
  default 'Action: weather\nAction Input: "{\\"city\\": \\"Rome\\"}"'
arguments as an object
  qwen    '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>'
  llama3  '{"name": "weather", "parameters": {"city": "Rome"}}'
  mistral '[{"name": "weather", "arguments": {"city": "Rome"}}]'
  default 'Action: weather\nAction Input: {"city": "Rome"}'
what the assistant said is there: False
two results: '31\n</tool_response>\n<tool_response>\n17'
EXPECTED
cat > run.py <<'CODE'
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
import json, sys

folder = find_spec("llamafactory").submodule_search_locations[0]
for name in ("llamafactory", "llamafactory.data"):           # its converters without the trainers
    sys.modules[name] = ModuleType(name)
    sys.modules[name].__path__ = [str(Path(folder, *name.split(".")[1:]))]
from llamafactory.data.converter import get_dataset_converter
from llamafactory.data.formatter import FunctionFormatter
from llamafactory.data.parser import DatasetAttr

attr = DatasetAttr("file", "weather.json")                   # its roles by the names they have at OpenAI
attr.join(dict(formatting="openai", columns=dict(messages="messages"),
               tags=dict(role_tag="role", content_tag="content", user_tag="user", assistant_tag="assistant",
                         observation_tag="tool", function_tag="function", system_tag="system")))
convert = get_dataset_converter("openai", attr, SimpleNamespace(media_dir=""))

def turns(arguments, **weather):
    calls = [dict(id=city, type="function", function=dict(name="weather", arguments=arguments(dict(city=city))))
             for city in weather]
    row = convert(dict(messages=[
        dict(role="user", content="How warm is it?"),
        dict(role="assistant", content="<think>I need a tool.</think>I look it up.", tool_calls=calls),
        *(dict(role="tool", tool_call_id=city, content=degrees) for city, degrees in weather.items()),
        dict(role="assistant", content="Warm.")]))
    return row["_prompt"] + row["_response"]

print("llamafactory", version("llamafactory"))
for kind, arguments in [("arguments as OpenAI has them, a text", json.dumps), ("arguments as an object", dict)]:
    print(kind)
    for tool_format in ("qwen", "llama3", "mistral", "default"):
        call = turns(arguments, Rome="31")[1]
        text, = FunctionFormatter(slots=["{{content}}"], tool_format=tool_format).apply(content=call["content"])
        print(f"  {tool_format:7}", repr(text))
print("what the assistant said is there:", "look it up" in str(turns(json.dumps, Rome="31")))
print("two results:", repr(turns(json.dumps, Rome="31", Oslo="17")[2]["content"]))
CODE
venv/bin/python run.py > seen 2> errors || { cat errors; exit 1; }
cat seen
diff expected seen
