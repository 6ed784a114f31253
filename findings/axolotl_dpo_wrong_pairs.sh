#!/usr/bin/env bash
# axolotl turns known datasets into pairs for DPO; one expects the better answer as chosen, with all that led to it.
# In 0.19.0 zephyr.nectar sorts Nectar's answers by rank, where 1 is the best, and takes the last as chosen and the last
# but one as rejected: of seven answers the two worst, and the worst is preferred. chatml.argilla_chat and
# llama3.argilla_chat, "for argilla/dpo-mix-7k conversations", read the first two messages: of a longer conversation the
# first answer is both chosen and rejected and the rest is gone; with a system prompt before it the question is the
# answer. chatml.ultra and llama3.ultra read the second message, too. Nothing is raised or said.
# It matters for preference training: a model learns to write the worst answer; an equal pair moves nothing but counts.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet --no-deps axolotl==0.19.0
cat > expected <<'EXPECTED'
axolotl 0.19.0
zephyr.nectar, answers of rank 1 to 7
  chosen   rank 7
  rejected rank 6
chatml.argilla_chat
  two messages      prompt 'What is 2 + 2?' chosen '4' rejected '5'
  four messages     prompt 'What is 2 + 2?' chosen '4' rejected '4'
  system and two    prompt 'Be brief.' chosen 'What is 2 + 2?' rejected 'What is 2 + 2?'
llama3.argilla_chat
  two messages      prompt 'What is 2 + 2?' chosen '4' rejected '5'
  four messages     prompt 'What is 2 + 2?' chosen '4' rejected '4'
  system and two    prompt 'Be brief.' chosen 'What is 2 + 2?' rejected 'What is 2 + 2?'
chatml.ultra
  two messages      prompt 'asked' chosen '4' rejected '5'
  four messages     prompt 'asked' chosen '4' rejected '4'
  system and two    prompt 'asked' chosen 'What is 2 + 2?' rejected 'What is 2 + 2?'
EXPECTED
cat > run.py <<'CODE'
from importlib.metadata import version
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
import re

def load(name):                                              # its strategies without the rest, which needs torch
    folder = Path(next(iter(find_spec("axolotl").submodule_search_locations)), "prompt_strategies", "dpo")
    spec = spec_from_file_location(name, folder / f"{name}.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

def talk(*texts): return [dict(role=role, content=text) for role, text in zip(("user", "assistant") * 2, texts)]
def words(text): return re.sub(r"<\|(start_header_id|im_start)\|>\w+|<\|\w+\|>", "", text).strip()

print("axolotl", version("axolotl"))
print("zephyr.nectar, answers of rank 1 to 7")
answers = [dict(answer=f"rank {rank}", rank=float(rank)) for rank in (3, 1, 7, 2, 6, 5, 4)]
pair = load("zephyr").nectar({})(dict(prompt="Why is the sky blue?", answers=answers))
print("  chosen  ", pair["chosen"])
print("  rejected", pair["rejected"])
asked = "What is 2 + 2?"
system = [dict(role="system", content="Be brief.")]
for name, strategy in [("chatml", "argilla_chat"), ("llama3", "argilla_chat"), ("chatml", "ultra")]:
    print(f"{name}.{strategy}")
    for kind, chosen, rejected in [
        ("two messages", talk(asked, "4"), talk(asked, "5")),
        ("four messages", talk(asked, "4", "And 3 + 3?", "6"), talk(asked, "4", "And 3 + 3?", "7")),
        ("system and two", system + talk(asked, "4"), system + talk(asked, "5")),
    ]:
        pair = getattr(load(name), strategy)({})(dict(prompt="asked", chosen=chosen, rejected=rejected))
        print(f"  {kind:17}", *(f"{part} {words(pair[part])!r}" for part in ("prompt", "chosen", "rejected")))
CODE
venv/bin/python run.py > seen 2> errors || { cat errors; exit 1; }
cat seen
diff expected seen
