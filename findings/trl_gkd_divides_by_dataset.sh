#!/usr/bin/env bash
# GKD lets the student write and learns from what it wrote. Its loss should then be a mean over the written tokens. TRL
# 1.15.0 divides by the tokens of the dataset's answers, which the step has thrown away: the Trainer counts the labels
# when it takes the batch, and GKD writes afterwards. Below one student writes the same 32 tokens twice; only the unused
# answer beside the prompt differs (1 or 16 words), and loss and gradient differ by 8.5. With lmbda between 0 and 1 the
# two kinds of steps have different rates. DistillationTrainer of the same version counts anew, with a comment on why.
# It matters for distilling on-policy from data with short labels: one word a row and 128 new tokens is a rate of 64 times.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0 transformers==5.17.0 trl==1.15.0 datasets==4.8.5
export HF_HUB_OFFLINE=1 HF_HOME="$dir/hf" TRL_EXPERIMENTAL_SILENCE=1
cat > expected <<'EXPECTED'
trl 1.15.0 transformers 5.17.0
lmbda 0, answers of  1 word(s):  8 tokens in the loss, divided by  8: 1.00 of their mean
lmbda 0, answers of 16 word(s): 68 tokens in the loss, divided by 68: 1.00 of their mean
lmbda 1, answers of  1 word(s): 32 tokens in the loss, divided by  8: 4.00 of their mean
lmbda 1, answers of 16 word(s): 32 tokens in the loss, divided by 68: 0.47 of their mean
the same tokens were written: True, gradients differ by a factor of 8.50
EXPECTED
cat > run.py <<'CODE'
from importlib.metadata import version
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl.experimental.gkd import GKDConfig, GKDTrainer

print(*(f"{p} {version(p)}" for p in ("trl", "transformers")))
words = ["<pad>", "<eos>", "user", "assistant", *"abcdefghijklmnop"]
vocab = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<pad>"))
vocab.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=vocab, pad_token="<pad>", eos_token="<eos>")
tokenizer.chat_template = ("{% for m in messages %}{{ m['role'] + ' ' + m['content'] + ' <eos> ' }}{% endfor %}"
                           "{% if add_generation_prompt %}{{ 'assistant ' }}{% endif %}")
def model(seed):
    torch.manual_seed(seed)
    made = LlamaForCausalLM(LlamaConfig(vocab_size=len(words), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                                        num_attention_heads=2, num_key_value_heads=2, pad_token_id=0, eos_token_id=1,
                                        bos_token_id=None))
    made.generation_config.suppress_tokens = [1]                          # so that each answer has 8 tokens
    return made

class Shown(GKDTrainer):
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        loss = super().compute_loss(model, inputs, num_items_in_batch=num_items_in_batch)
        mean = super().compute_loss(model, inputs)                         # without a count: the mean of its tokens
        n = (inputs["labels"][:, 1:] != -100).sum().item()
        self.seen = inputs["input_ids"].tolist()
        print(f"lmbda {self.lmbda:.0f}, answers of {self.words:2} word(s): {n:2} tokens in the loss, divided by "
              f"{num_items_in_batch:2}: {(loss/mean).item():.2f} of their mean")
        return loss
    def log(self, logs, start_time=None):
        if "grad_norm" in logs: self.norm = float(logs["grad_norm"])
        super().log(logs, start_time)

done = {}
for lmbda in (0.0, 1.0):
    for n in (1, 16):
        rows = [{"messages": [{"role": "user", "content": "c d"},
                              {"role": "assistant", "content": " ".join("abcdefghijklmnop"[:n])}]}]*4
        arguments = GKDConfig("out", lmbda=lmbda, max_new_tokens=8, per_device_train_batch_size=4, max_steps=1, seed=1,
                              logging_steps=1, report_to="none", use_cpu=True, bf16=False, save_strategy="no",
                              disable_tqdm=True)
        trainer = Shown(model(0), model(1), args=arguments, train_dataset=Dataset.from_list(rows),
                        processing_class=tokenizer)
        trainer.words = n
        trainer.train()
        done[lmbda, n] = trainer
short, long = done[1.0, 1], done[1.0, 16]
print(f"the same tokens were written: {short.seen == long.seen}, "
      f"gradients differ by a factor of {short.norm/long.norm:.2f}")
CODE
venv/bin/python run.py > all 2> errors || { cat errors; exit 1; }
grep -E '^(trl|lmbda|the same)' all > seen
cat seen
diff expected seen
