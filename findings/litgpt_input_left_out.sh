#!/usr/bin/env bash
# litgpt trains on JSON rows of instruction, output and, if one likes, input, with a prompt style for the model's own
# format. One expects every style to show the model the input. In 0.5.13 only "alpaca" does, of 29: with llama3, gemma,
# qwen2.5 and the others it is dropped without a word, and the model learns to answer "Is this review positive?" without
# a review. Longform drops it while its own words speak of an input. A system prompt is dropped by the eight styles that
# have no place for it. And the style of Phi-4-reasoning opens its system turn with <|im_start>, a bar short of
# <|im_start|>, the token that opens its user's turn and the system turn of phi-4.
# It matters for students trained on rows with a context (an article, a draft to correct): they learn to make up what
# they were not shown.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet pyyaml==6.0.3 typing-extensions==4.16.0
venv/bin/pip install --quiet --no-deps litgpt==0.5.13
cat > expected <<'EXPECTED'
litgpt 0.5.13
styles 29
show the input: alpaca
llama3: '<|start_header_id|>user<|end_header_id|>\n\nIs this review positive?'
longform: 'paired with an input that provides further context'
          '### Instruction:\nIs this review positive?\n\n### Response:\n'
drop a system prompt: stablelm-zephyr falcon platypus stablecode phi-1 phi-2 gemma olmo
phi-4-reasoning: <|im_start>system<|im_sep|> ... <|im_end|><|im_start|>user
phi-4:           <|im_start|>system<|im_sep|> ... <|im_end|><|im_start|>user
EXPECTED
cat > run.py <<'CODE'
from importlib.metadata import version
from importlib.util import find_spec
import sys, types

package = types.ModuleType("litgpt")                         # its prompts without the rest, which needs torch
package.__path__ = find_spec("litgpt").submodule_search_locations
sys.modules["litgpt"] = package
from litgpt.prompts import PromptStyle, prompt_styles

row = dict(instruction="Is this review positive?", input="The food was cold.", output="No.")
def shown(name, **more):                                     # as litgpt.data's SFTDataset calls it
    example = dict(row, **more)
    return PromptStyle.from_name(name).apply(prompt=example["instruction"], **example)

print("litgpt", version("litgpt"))
print("styles", len(prompt_styles))
print("show the input:", *(name for name in prompt_styles if row["input"] in shown(name)))
print("llama3:", repr(shown("llama3").split("<|eot_id|>")[1]))
print("longform:", repr(shown("longform").split(", ")[1].split(". ")[0]))
print("         ", repr(shown("longform").split("\n\n", 1)[1]))
kind = {name: shown(name, sys_prompt="Be kind.") for name in prompt_styles}
print("drop a system prompt:", *(name for name, text in kind.items() if "Be kind." not in text))
for name in ("phi-4-reasoning", "phi-4"):
    system, user = kind[name].split("Be kind.")
    print(f"{name + ':':16} {system} ... {user.split('<|im_sep|>')[0]}")
CODE
venv/bin/python run.py > seen 2> errors || { cat errors; exit 1; }
cat seen
diff expected seen
