#!/usr/bin/env bash
# Online DPO writes two answers to a prompt and prefers the one with the higher reward. Where the rewards are equal there
# is nothing to prefer. TRL 1.15.0 then takes the first answer for the chosen one and trains on the pair like on any
# other: below all rewards are 0, and the first answer gets likelier, the second less likely. GRPO of the same version
# gives such answers an advantage of 0. Beside it, "objective/entropy", "objective/kl" and "objective/rlhf_reward" are
# summed over the padding after the end as well: the same two answers have four times the entropy beside a longer one.
# It matters for rewards of 0 and 1, where most pairs are equal: steps are noise, and the KL that is watched is of padding.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0 transformers==5.17.0 trl==1.15.0 datasets==4.8.5
export HF_HUB_OFFLINE=1 HF_HOME="$dir/hf" TRL_EXPERIMENTAL_SILENCE=1
cat > expected <<'EXPECTED'
trl 1.15.0 transformers 5.17.0
Online DPO, all rewards 0, padded to  6: margin 0.0, weights move: True, first answer likelier: True, second: False
  tokens in an answer 3.5, in the logged entropy about 6
Online DPO, all rewards 0, padded to 24: margin 0.0, weights move: True, first answer likelier: True, second: False
  tokens in an answer 3.5, in the logged entropy about 24
GRPO, all rewards 0: advantages 0.0 0.0 0.0 0.0
EXPECTED
cat > run.py <<'CODE'
from importlib.metadata import version
import math
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import GRPOConfig, GRPOTrainer
from trl.experimental.online_dpo import OnlineDPOConfig, OnlineDPOTrainer

print(*(f"{p} {version(p)}" for p in ("trl", "transformers")))
words = ["<pad>", "<eos>", *"abcdefghij"]
vocab = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<pad>"))
vocab.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=vocab, pad_token="<pad>", eos_token="<eos>")
rows = Dataset.from_list([{"prompt": "a b"}]*4)
common = dict(per_device_train_batch_size=4, max_steps=1, learning_rate=0.1, lr_scheduler_type="constant", optim="sgd",
              logging_steps=1, report_to="none", use_cpu=True, bf16=False, save_strategy="no", disable_tqdm=True)

def model():
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(vocab_size=len(words), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                                        num_attention_heads=2, num_key_value_heads=2, pad_token_id=0, eos_token_id=1,
                                        bos_token_id=None))

def moved(student): return any((p != q).any().item() for p, q in zip(student.parameters(), model().parameters()))

def nothing_paid(completions, **rest): return [0.0]*len(completions)

def logp(student, answer):
    ids = torch.tensor([[2, 3, *answer]])
    scores = student(ids).logits[0, 1:-1].log_softmax(-1)
    return scores.gather(1, torch.tensor(answer)[:, None]).sum().item()

first, second = [4, 5, 1], [6, 7, 8, 1]
for width in (6, 24): # as wide as the longest answer of the batch
    class Written(OnlineDPOTrainer):
        def _generate(self, model, prompts, images=None):
            ids, mask, _, _ = super()._generate(model, prompts, images)
            answers = [first]*len(prompts) + [second]*len(prompts)
            return (ids, mask, torch.tensor([a + [0]*(width - len(a)) for a in answers]),
                    torch.tensor([[1]*len(a) + [0]*(width - len(a)) for a in answers]))
        def log(self, logs, start_time=None):
            if "loss" in logs: self.shown = dict(logs)
            super().log(logs, start_time)
    student = model()
    trainer = Written(student, reward_funcs=nothing_paid, args=OnlineDPOConfig("out", max_new_tokens=width, **common),
                      train_dataset=rows, processing_class=tokenizer)
    trainer.train()
    more = [logp(student, a) > logp(model(), a) for a in (first, second)]
    print(f"Online DPO, all rewards 0, padded to {width:2}: margin {trainer.shown['objective/scores_margin']:.1f}, weights "
          f"move: {moved(student)}, first answer likelier: {more[0]}, second: {more[1]}")
    print(f"  tokens in an answer {(len(first) + len(second))/2:.1f}, in the logged entropy about "
          f"{trainer.shown['objective/entropy']/math.log(len(words)):.0f}") # an untrained model: log(words) a token
class Advantages(GRPOTrainer):
    def _compute_loss(self, model, inputs):
        print("GRPO, all rewards 0: advantages", *inputs["advantages"].tolist())
        return 0.0*next(model.parameters()).sum()
Advantages(model(), nothing_paid, GRPOConfig("out", num_generations=4, max_completion_length=6, **common), rows,
           processing_class=tokenizer).train()
CODE
venv/bin/python run.py > all 2> errors || { cat errors; exit 1; }
grep -E '^(trl|Online|GRPO|  tokens)' all > seen
cat seen
diff expected seen
