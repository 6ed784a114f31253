#!/usr/bin/env bash
# TRL 1.15.0's README says why deepseek_r1_distill_training drops the template's split at </think>: it "would silently
# remove the reasoning from the SFT training target". The sibling deepseekv3_training keeps that split, so the thoughts
# of an answer are cut from the target, and so is all that stands before a </think> that an answer only talks about;
# its generation prompt still opens <think>. The mask shows the rest as the whole answer.
# It matters for SFT on R1-like data with a DeepSeek-V3 template: what was to be learnt is not in the batch.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet transformers==5.17.0 jinja2==3.1.6 && venv/bin/pip install --quiet --no-deps trl==1.15.0
export HF_HUB_OFFLINE=1 HF_HOME="$dir/hf"
cat > expected <<'EXPECTED'
trl 1.15.0 transformers 5.17.0
deepseek_r1_distill '<think>\nBECAUSE\n</think>\n\n18'
  trained: ['<｜Assistant｜><think>\nBECAUSE\n</think>\n\n18<｜end▁of▁sentence｜>']
deepseek_r1_distill 'The tag </think> ends a thought.'
  trained: ['<｜Assistant｜>The tag </think> ends a thought.<｜end▁of▁sentence｜>']
deepseek_r1_distill prompt: '<｜User｜>Q<｜Assistant｜><think>\n'
deepseekv3 '<think>\nBECAUSE\n</think>\n\n18'
  trained: ['<｜Assistant｜>\n\n18<｜end▁of▁sentence｜>']
deepseekv3 'The tag </think> ends a thought.'
  trained: ['<｜Assistant｜> ends a thought.<｜end▁of▁sentence｜>']
deepseekv3 prompt: '<｜User｜>Q<｜Assistant｜><think>\n'
EXPECTED
cat > run.py <<'CODE'
from importlib.metadata import version
from importlib.resources import files
from transformers.utils.chat_template_utils import render_jinja_template

print("trl", version("trl"), "transformers", version("transformers"))
for name in ("deepseek_r1_distill", "deepseekv3"):
    template = (files("trl") / f"chat_templates/{name}_training.jinja").read_text()
    for answer in ("<think>\nBECAUSE\n</think>\n\n18", "The tag </think> ends a thought."):
        chat = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": answer}]
        texts, spans = render_jinja_template([chat], chat_template=template, return_assistant_tokens_mask=True,
                                             bos_token="", eos_token="<eos>")
        print(f"{name} {answer!r}\n  trained: {[texts[0][a:b] for a, b in spans[0]]}")
    prompt, _ = render_jinja_template([chat[:1]], chat_template=template, add_generation_prompt=True, bos_token="")
    print(name, "prompt:", repr(prompt[0]))
CODE
venv/bin/python run.py > seen 2> errors || { cat errors; exit 1; }
cat seen
diff expected seen
