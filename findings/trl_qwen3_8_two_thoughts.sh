#!/usr/bin/env bash
# qwen3 to qwen3_6 take a thought out of an answer's text ("<think>...</think>18") and set it where the family puts
# one. The README beside TRL 1.15.0's templates says that qwen3_8 differs from qwen3_6 in two flags; but it also no
# longer looks into the text: an empty closed thought comes first, then the text with its own tags, so the turn has two
# thoughts. The training version does the same, and the mask covers both. Only the field reasoning_content is read.
# It matters for SFT on stored R1-like completions: the next Qwen learns to skip thinking and then to think aloud.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet transformers==5.17.0 jinja2==3.1.6 && venv/bin/pip install --quiet --no-deps trl==1.15.0
export HF_HUB_OFFLINE=1 HF_HOME="$dir/hf"
cat > expected <<'EXPECTED'
trl 1.15.0 transformers 5.17.0
qwen3_6, content: '<think>\nWHY\n</think>\n\n18<|im_end|>\n'
qwen3_6, content and reasoning_content: '<think>\nWHY\n</think>\n\n18<|im_end|>\n'
qwen3_8, content: '<think>\n\n</think>\n\n<think>\nWHY\n</think>\n\n18<|im_end|>\n'
qwen3_8, content and reasoning_content: '<think>\nWHY\n</think>\n\n18<|im_end|>\n'
qwen3_8_training, content: '<think>\n\n</think>\n\n<think>\nWHY\n</think>\n\n18<|im_end|>\n'
qwen3_8_training, content and reasoning_content: '<think>\nWHY\n</think>\n\n18<|im_end|>\n'
EXPECTED
cat > run.py <<'CODE'
from importlib.metadata import version
from importlib.resources import files
from transformers.utils.chat_template_utils import render_jinja_template

print("trl", version("trl"), "transformers", version("transformers"))
for name in ("qwen3_6", "qwen3_8", "qwen3_8_training"):
    template = (files("trl") / f"chat_templates/{name}.jinja").read_text()
    for turn in ({"content": "<think>\nWHY\n</think>\n\n18"}, {"content": "18", "reasoning_content": "WHY"}):
        chat = [{"role": "user", "content": "Q"}, {"role": "assistant", **turn}]
        texts, _ = render_jinja_template([chat], chat_template=template)
        print(f"{name}, {' and '.join(turn)}: {texts[0][texts[0].rindex('assistant') + 10:]!r}")
CODE
venv/bin/python run.py > seen 2> errors || { cat errors; exit 1; }
cat seen
diff expected seen
