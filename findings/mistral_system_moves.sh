#!/usr/bin/env bash
# A system prompt is expected first, and earlier turns rendered alike however long the chat grows. mistral-common
# 1.13.1 does so for v1 and v7, but for v2 and v3 (Mistral 7B v0.3, Mixtral) the system text goes into the last user
# turn: with each turn it moves, so the first turn's tokens are no beginning of the second's. v2 and later also cut
# spaces at an answer's end, of a prefix to be continued too; v1 keeps them.
# It matters for training on multi-turn chats and for prefix caches: the turns learnt are not those met at inference.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet mistral-common==1.13.1 sentencepiece==0.2.3
cat > expected <<'EXPECTED'
mistral-common 1.13.1
v1, first turn:  <s>▁[INST]▁S<0x0A><0x0A>Q▁[/INST]
    second turn: <s>▁[INST]▁S<0x0A><0x0A>Q▁[/INST]▁A</s>▁[INST]▁R▁[/INST]
    a beginning: True; prefix 'So ': '<s>▁[INST]▁Q▁[/INST]▁So▁'
v2, first turn:  <s>[INST]▁S<0x0A><0x0A>Q[/INST]
    second turn: <s>[INST]▁Q[/INST]▁A</s>[INST]▁S<0x0A><0x0A>R[/INST]
    a beginning: False; prefix 'So ': '<s>[INST]▁Q[/INST]▁So'
v3, first turn:  <s>[INST]▁S<0x0A><0x0A>Q[/INST]
    second turn: <s>[INST]▁Q[/INST]▁A</s>[INST]▁S<0x0A><0x0A>R[/INST]
    a beginning: False; prefix 'So ': '<s>[INST]▁Q[/INST]▁So'
v7, first turn:  <s>[SYSTEM_PROMPT]▁S[/SYSTEM_PROMPT][INST]▁Q[/INST]
    second turn: <s>[SYSTEM_PROMPT]▁S[/SYSTEM_PROMPT][INST]▁Q[/INST]▁A</s>[INST]▁R[/INST]
    a beginning: True; prefix 'So ': '<s>[INST]▁Q[/INST]▁So'
EXPECTED
cat > run.py <<'CODE'
from importlib.metadata import version
from mistral_common.protocol.instruct.messages import AssistantMessage, SystemMessage, UserMessage
from mistral_common.protocol.instruct.request import ChatCompletionRequest
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

print("mistral-common", version("mistral-common"))
chat = [SystemMessage(content="S"), UserMessage(content="Q"), AssistantMessage(content="A"), UserMessage(content="R")]
prefix = [UserMessage(content="Q"), AssistantMessage(content="So ", prefix=True)]
for name in ("v1", "v2", "v3", "v7"):
    tokenizer = getattr(MistralTokenizer, name)()
    def render(messages): return tokenizer.encode_chat_completion(ChatCompletionRequest(messages=messages))
    first, second = render(chat[:2]), render(chat)
    print(f"{name}, first turn:  {first.text}\n    second turn: {second.text}")
    same = second.tokens[:len(first.tokens)] == first.tokens
    print(f"    a beginning: {same}; prefix 'So ': {render(prefix).text!r}")
CODE
venv/bin/python run.py > seen 2> errors || { cat errors; exit 1; }
cat seen
diff expected seen
