#!/usr/bin/env bash
# A reward function may return None for a completion; TRL 1.15.0 says that it is then "excluded from the reward
# calculation for that sample". Where another function has paid for that completion, its None counts as 0 in the sum:
# four completions have the same form, a judge gives three of them .4 to .6, and its reply on the fourth cannot be read.
# The fourth becomes the worst of its group, and the logged total (1.375) is not the sum of the logged means (1 + .5).
# A completion of which every function says None is left out of the baseline, with a comment on why 0 would be wrong.
# It matters wherever a reward may fail: completions are made less likely since a judge's reply was cut off.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0 transformers==5.17.0 trl==1.15.0
export HF_HUB_OFFLINE=1 HF_HOME="$dir/hf"
cat > expected <<'EXPECTED'
trl 1.15.0
advantages, in order of size: -0.375 0.025 0.125 0.225
rewards/form/mean 1.000 rewards/judge/mean 0.500 reward 1.375
EXPECTED
cat > run.py <<'CODE'
from importlib.metadata import version
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import GRPOConfig, GRPOTrainer

print("trl", version("trl"))
words = ["<pad>", "<eos>", *"abcdefgh"]
tokens = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<pad>"))
tokens.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokens, pad_token="<pad>", eos_token="<eos>")
torch.manual_seed(0)
model = LlamaForCausalLM(LlamaConfig(vocab_size=len(words), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                                     num_attention_heads=2, num_key_value_heads=2))
def form(completions, **rest): return [1.0] * len(completions)            # all have the form that is asked for
def judge(completions, **rest): return [0.4, 0.6, 0.5, None]              # the judge's last reply could not be read
class Shown(GRPOTrainer):
    def _compute_loss(self, model, inputs):
        print("advantages, in order of size:", *(f"{a:.3f}" for a in sorted(inputs["advantages"].tolist())))
        return 0.0 * next(model.parameters()).sum()
    def log(self, logs, start_time=None):
        super().log(logs, start_time)
        if "reward" in logs: print(*(f"{k} {logs[k]:.3f}" for k in logs if k == "reward" or k.endswith("/mean")))
arguments = GRPOConfig("out", num_generations=4, per_device_train_batch_size=4, max_steps=1, max_completion_length=4,
                       scale_rewards="none", logging_steps=1, report_to="none", use_cpu=True, bf16=False,
                       shuffle_dataset=False, save_strategy="no", disable_tqdm=True)
Shown(model, [form, judge], arguments, Dataset.from_list([{"prompt": "a b"}]), processing_class=tokenizer).train()
CODE
venv/bin/python run.py > all 2> errors || { cat errors; exit 1; }
grep -E '^(trl|advantages|rewards/)' all > seen
cat seen
diff expected seen
