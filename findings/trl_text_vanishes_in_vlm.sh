#!/usr/bin/env bash
# A message's content may be a plain text in the chat format. The SmolVLM and Idefics3 templates (as kept in TRL 1.15.0
# from their repositories, and their training versions) loop over it as over a list of parts: the letters of a text
# have no type, so question and answer are rendered as nothing, without an error. LLaVA-NeXT's template raises on the
# same chat.
# It matters for text-only fine-tuning of a small VLM: assistant_only_loss trains <end_of_utterance> after an empty
# question, and the loss looks fine.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet transformers==5.17.0 jinja2==3.1.6 && venv/bin/pip install --quiet --no-deps trl==1.15.0
export HF_HUB_OFFLINE=1 HF_HOME="$dir/hf"
cat > expected <<'EXPECTED'
trl 1.15.0 transformers 5.17.0
smolvlm parts: '<|im_start|>User: 2 + 2?<end_of_utterance>\nAssistant: 4<end_of_utterance>\n'
  trained: [' 4<end_of_utterance>\n']
smolvlm text: '<|im_start|>User: <end_of_utterance>\nAssistant: <end_of_utterance>\n'
  trained: [' <end_of_utterance>\n']
idefics3 parts: '<|begin_of_text|>User: 2 + 2?<end_of_utterance>\nAssistant: 4<end_of_utterance>\n'
  trained: [' 4<end_of_utterance>\n']
idefics3 text: '<|begin_of_text|>User: <end_of_utterance>\nAssistant: <end_of_utterance>\n'
  trained: [' <end_of_utterance>\n']
llava_next parts: '[INST] 2 + 2? [/INST] 4</s> '
  trained: [' 4</s>']
llava_next text: raises 'str object' has no attribute 'text'
EXPECTED
cat > run.py <<'CODE'
from importlib.metadata import version
from importlib.resources import files
from jinja2 import UndefinedError
from transformers.utils.chat_template_utils import render_jinja_template

print("trl", version("trl"), "transformers", version("transformers"))
text = [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]
parts = [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in text]
for name in ("smolvlm", "idefics3", "llava_next"):
    template = (files("trl") / f"chat_templates/{name}_training.jinja").read_text()
    for kind, chat in (("parts", parts), ("text", text)):
        try:
            texts, spans = render_jinja_template([chat], chat_template=template, return_assistant_tokens_mask=True)
            print(f"{name} {kind}: {texts[0]!r}\n  trained: {[texts[0][a:b] for a, b in spans[0]]}")
        except UndefinedError as error: print(f"{name} {kind}: raises {error}")
CODE
venv/bin/python run.py > seen 2> errors || { cat errors; exit 1; }
cat seen
diff expected seen
