#!/usr/bin/env bash
# continue_final_message lets a caller prefill the answer's start, and the model goes on from there. With transformers
# 5.17.0 and the chat templates of qwen3, qwen3_5_think and glm4moe (as TRL 1.15.0 ships them) a prefilled thought,
# "<think>\nFirst", is put after an empty thought that the template has just closed, since it looks for </think> only;
# a prefix with the whole thought raises for glm4moe and deepseek_r1_distill, whose templates take it out.
# It matters for steering or resuming a thought: the model is told that the thinking is over, then shown its beginning.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet transformers==5.17.0 jinja2==3.1.6 && venv/bin/pip install --quiet --no-deps trl==1.15.0
export HF_HUB_OFFLINE=1 HF_HOME="$dir/hf"
cat > expected <<'EXPECTED'
trl 1.15.0 transformers 5.17.0
qwen3 '<think>\nFirst': '\n<think>\n\n</think>\n\n<think>\nFirst'
qwen3 '<think>\nA\n</think>\n\nSo': '\n<think>\nA\n</think>\n\nSo'
qwen3_5_think '<think>\nFirst': '\n<think>\n\n</think>\n\n<think>\nFirst'
qwen3_5_think '<think>\nA\n</think>\n\nSo': '\n<think>\nA\n</think>\n\nSo'
glm4moe '<think>\nFirst': '|>\n<think></think>\n<think>\nFirst'
glm4moe '<think>\nA\n</think>\n\nSo': raises continue_final_message is set but the fi...
nemotron_3_nano '<think>\nFirst': '\n<think>\nFirst'
nemotron_3_nano '<think>\nA\n</think>\n\nSo': '\n<think>\nA\n</think>\n\nSo'
deepseek_r1_distill '<think>\nFirst': '｜><think>\nFirst'
deepseek_r1_distill '<think>\nA\n</think>\n\nSo': raises continue_final_message is set but the fi...
EXPECTED
cat > run.py <<'CODE'
from importlib.metadata import version
from importlib.resources import files
from transformers.utils.chat_template_utils import render_jinja_template

print("trl", version("trl"), "transformers", version("transformers"))
for name in ("qwen3", "qwen3_5_think", "glm4moe", "nemotron_3_nano", "deepseek_r1_distill"):
    template = (files("trl") / f"chat_templates/{name}.jinja").read_text()
    for prefix in ("<think>\nFirst", "<think>\nA\n</think>\n\nSo"):
        chat = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": prefix}]
        try:
            texts, _ = render_jinja_template([chat], chat_template=template, continue_final_message=True, bos_token="",
                                             eos_token="<eos>")
            print(f"{name} {prefix!r}: {texts[0][texts[0].lower().rindex('assistant') + 9:]!r}")
        except ValueError as error: print(f"{name} {prefix!r}: raises {str(error)[:40]}...")
CODE
venv/bin/python run.py > seen 2> errors || { cat errors; exit 1; }
cat seen
diff expected seen
