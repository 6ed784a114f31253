#!/usr/bin/env bash
# GKD is given conversations in a column "messages" and learns their last answer. If the rows have a column "prompt", too,
# as those of ultrachat_200k and no_robots, which hold the first question as plain text there, TRL 1.15.0 takes it for
# the rendered prompt and says nothing. The mask then covers as many bytes as that text has, counted from the start of
# the rendered conversation: roles, the user's words and every turn are targets. And what the student continues
# when it writes itself is the first bytes of the conversation, cut anywhere, without the question.
# It matters for distilling on the usual chat sets: one column that no step asks for changes targets and prompts.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0 transformers==5.17.0 trl==1.15.0 datasets==4.8.5
export HF_HUB_OFFLINE=1 HF_HOME="$dir/hf" TRL_EXPERIMENTAL_SILENCE=1
cat > expected <<'EXPECTED'
trl 1.15.0
columns ['messages']
  the student continues: '<user>What is 2+2?<end><assistant>Four.<end><user>And 3+3?<end><assistant>'
  targets: 'Six.<end>'
columns ['prompt', 'prompt_id', 'messages']
  the student continues: '<user>What i'
  targets: 's 2+2?<end><assistant>Four.<end><user>And 3+3?<end><assistant>Six.<end>'
EXPECTED
cat > run.py <<'CODE'
from importlib.metadata import version
import torch
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl.experimental.gkd import GKDConfig, GKDTrainer

print("trl", version("trl"))
alphabet = ["<pad>", "<end>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
vocab = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
vocab.pre_tokenizer, vocab.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=vocab, pad_token="<pad>", eos_token="<end>")
tokenizer.chat_template = ("{% for m in messages %}{{ '<' + m['role'] + '>' + m['content'] + '<end>' }}{% endfor %}"
                           "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}")
def model():
    return LlamaForCausalLM(LlamaConfig(vocab_size=len(alphabet), hidden_size=16, intermediate_size=16,
                                        num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2))
talk = [{"role": r, "content": c} for r, c in (("user", "What is 2+2?"), ("assistant", "Four."),
                                               ("user", "And 3+3?"), ("assistant", "Six."))]
for row in (dict(messages=talk), dict(prompt="What is 2+2?", prompt_id="1f", messages=talk)):
    arguments = GKDConfig("out", per_device_train_batch_size=1, report_to="none", use_cpu=True, bf16=False)
    trainer = GKDTrainer(model(), model(), args=arguments, train_dataset=Dataset.from_list([row]),
                         processing_class=tokenizer)
    batch = next(iter(trainer.get_train_dataloader()))
    labels = batch["labels"][0]
    print("columns", list(row))
    print("  the student continues:", repr(tokenizer.decode(batch["prompts"][0])))
    print("  targets:", repr(tokenizer.decode(labels[labels != -100])))
CODE
venv/bin/python run.py > seen 2> errors || { cat errors; exit 1; }
cat seen
diff expected seen
