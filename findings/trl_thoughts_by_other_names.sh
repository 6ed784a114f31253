#!/usr/bin/env bash
# One expects one field for a turn's thoughts. In the templates that TRL 1.15.0 ships it is reasoning_content for qwen3
# to qwen3_8, nemotron_3, glm4moe and muse_glimmer, thinking for gptoss and lfm2_2_5, any of three for lfm2_2_5_v2, and
# deepseek reads none. A field by another family's name is dropped without an error, and the answer is rendered as if
# it had been given without thinking.
# It matters for distilling reasoning into another family: the data load, the loss falls, and no thought was trained.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet transformers==5.17.0 jinja2==3.1.6 && venv/bin/pip install --quiet --no-deps trl==1.15.0
export HF_HUB_OFFLINE=1 HF_HOME="$dir/hf"
cat > expected <<'EXPECTED'
trl 1.15.0 transformers 5.17.0
qwen3: reads ['reasoning_content']
qwen3_8: reads ['reasoning_content']
nemotron_3_nano: reads ['reasoning_content']
glm4moe: reads ['reasoning_content']
muse_glimmer: reads ['reasoning_content']
gptoss: reads ['thinking']
lfm2_2_5: reads ['thinking']
lfm2_2_5_v2: reads ['reasoning_content', 'thinking', 'reasoning']
gemma4: reads none of them
gemma4_v5: reads ['reasoning_content', 'reasoning']
deepseek_r1_distill: reads none of them
deepseekv3: reads none of them
EXPECTED
cat > run.py <<'CODE'
from importlib.metadata import version
from importlib.resources import files
from transformers.utils.chat_template_utils import render_jinja_template

print("trl", version("trl"), "transformers", version("transformers"))
fields = ("reasoning_content", "thinking", "reasoning")
for name in ("qwen3", "qwen3_8", "nemotron_3_nano", "glm4moe", "muse_glimmer", "gptoss", "lfm2_2_5", "lfm2_2_5_v2",
             "gemma4", "gemma4_v5", "deepseek_r1_distill", "deepseekv3"):
    template = (files("trl") / f"chat_templates/{name}.jinja").read_text()
    read = []
    for field in fields:
        chat = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A", field: "BECAUSE"}]
        texts, _ = render_jinja_template([chat], chat_template=template, bos_token="", eos_token="")
        if "BECAUSE" in texts[0]: read.append(field)
    print(f"{name}: reads {read or 'none of them'}")
CODE
venv/bin/python run.py > seen 2> errors || { cat errors; exit 1; }
cat seen
diff expected seen
