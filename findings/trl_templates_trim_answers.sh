#!/usr/bin/env bash
# A chat template wraps an answer; one expects its text kept. Of the 34 text templates that TRL 1.15.0 ships from model
# repositories 16 trim the assistant's content: an answer that begins with four spaces, as the body of a function does,
# loses them. Families disagree with themselves: qwen3 keeps the indentation, qwen3_5 to qwen3_8 trim it.
# It matters for HumanEval-like targets: the model is trained on bodies that don't parse, and nothing in a loss or a
# length shows it.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet transformers==5.17.0 jinja2==3.1.6 && venv/bin/pip install --quiet --no-deps trl==1.15.0
export HF_HUB_OFFLINE=1 HF_HOME="$dir/hf"
cat > expected <<'EXPECTED'
trl 1.15.0 transformers 5.17.0
18 keep it: cohere2 deepseek_r1_distill deepseekv3 gptoss lfm2 lfm2_2_5 lfm2_2_5_v2 lfm2_v2
muse_glimmer nemotron_3_5_lightning nemotron_3_nano nemotron_3_super nemotron_3_ultra phi3 phi3_5
qwen2_5 qwen3 qwen3_instruct_2507
16 trim it: cohere gemma gemma3 gemma4 gemma4_v2 gemma4_v3 gemma4_v4 gemma4_v5 glm4moe llama3
llama3_1 llama3_2 qwen3_5_nothink qwen3_5_think qwen3_6 qwen3_8
EXPECTED
cat > run.py <<'CODE'
from importlib.metadata import version
from importlib.resources import files
import textwrap
from transformers.utils.chat_template_utils import render_jinja_template

print("trl", version("trl"), "transformers", version("transformers"))
body = "    return a + b"
chat = [{"role": "user", "content": "def add(a, b):"}, {"role": "assistant", "content": body}]
folder = files("trl") / "chat_templates"
seen = {True: [], False: []}
for name in sorted(f.name for f in folder.iterdir() if f.name.endswith(".jinja")):
    if "training" in name or "vl" in name or name.startswith(("idefics3", "smolvlm", "llava", "diffusion")): continue
    texts, _ = render_jinja_template([chat], chat_template=(folder / name).read_text(), bos_token="", eos_token="")
    seen[body in texts[0]].append(name.removesuffix(".jinja"))
for kept, names in seen.items():
    print(textwrap.fill(f"{len(names)} {'keep' if kept else 'trim'} it: {' '.join(names)}", 100))
CODE
venv/bin/python run.py > seen 2> errors || { cat errors; exit 1; }
cat seen
diff expected seen
