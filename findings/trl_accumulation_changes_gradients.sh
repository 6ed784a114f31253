#!/usr/bin/env bash
# Four rows at once, or one row four times with gradients accumulated: the same update should come out. In TRL 1.15.0 it
# does for ORPO. GOLD's gradient is a quarter: each of its four batches holds all rows while tokens are counted, so they
# are divided by four times too many. With another tokenizer (its ULD loss) it is four times too large, as its mean is
# not divided at all. Online DPO's is four times too large, too, while the loss that it logs is right.
# It matters wherever accumulation is raised to save memory. Adam evens out a constant factor; clipping (at 1 unless one
# says otherwise), its epsilon, SGD and the logged norm don't, so steps are cut, or not, by a setting that should not count.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0 transformers==5.17.0 trl==1.15.0 datasets==4.8.5
export HF_HUB_OFFLINE=1 HF_HOME="$dir/hf" TRL_EXPERIMENTAL_SILENCE=1
cat > expected <<'EXPECTED'
trl 1.15.0 transformers 5.17.0
4 x 1 row over 1 x 4 rows: ORPO             logged loss 1.00, weights move 1.00 times as far
4 x 1 row over 1 x 4 rows: GOLD             logged loss 0.25, weights move 0.25 times as far
4 x 1 row over 1 x 4 rows: GOLD, other vocab logged loss 4.00, weights move 4.00 times as far
4 x 1 row over 1 x 4 rows: Online DPO       logged loss 1.00, weights move 4.00 times as far
EXPECTED
cat > run.py <<'CODE'
from importlib.metadata import version
import torch
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl.experimental.gold import GOLDConfig, GOLDTrainer
from trl.experimental.online_dpo import OnlineDPOConfig, OnlineDPOTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

print(*(f"{p} {version(p)}" for p in ("trl", "transformers")))
def tokens(merges=()):
    words = ["<pad>", "<end>", *sorted(pre_tokenizers.ByteLevel.alphabet()), *(a + b for a, b in merges)]
    vocab = Tokenizer(models.BPE({w: i for i, w in enumerate(words)}, list(merges)))
    vocab.pre_tokenizer, vocab.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    made = PreTrainedTokenizerFast(tokenizer_object=vocab, pad_token="<pad>", eos_token="<end>")
    made.chat_template = ("{% for m in messages %}{{ '<' + m['role'] + '>' + m['content'] + '<end>' }}{% endfor %}"
                          "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}")
    return made

def model(tokenizer, seed):
    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16,
                                        num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2,
                                        pad_token_id=0, eos_token_id=1, bos_token_id=None))

own, other = tokens(), tokens([("a", "b"), ("c", "d")])
model(other, 1).save_pretrained("teacher")
other.save_pretrained("teacher")
chat = Dataset.from_list([{"messages": [{"role": "user", "content": "c d"},
                                        {"role": "assistant", "content": "a b abcd"}]}]*4)

pairs = Dataset.from_list([{"prompt": "c d", "chosen": " ab", "rejected": " cd"}]*4)

class TwoAnswers(OnlineDPOTrainer): # the same two, however the rows are divided
    def _generate(self, model, prompts, images=None):
        ids, mask, _, _ = super()._generate(model, prompts, images)
        n = len(prompts)
        return (ids, mask, torch.tensor([[70, 71, 1, 0]]*n + [[72, 73, 74, 1]]*n),
                torch.tensor([[1, 1, 1, 0]]*n + [[1, 1, 1, 1]]*n))

def longer_is_better(completions, **rest): return [float(len(c)) for c in completions]

def trained(kind, config, data, rows, steps, options, **rest):
    student = model(own, 0)
    before = [p.detach().clone() for p in student.parameters()]
    class Shown(kind):
        def log(self, logs, start_time=None):
            if "loss" in logs: self.shown = float(logs["loss"])
            super().log(logs, start_time)
    arguments = config("out", per_device_train_batch_size=rows, gradient_accumulation_steps=steps, max_steps=1,
                       learning_rate=0.1, lr_scheduler_type="constant", optim="sgd", max_grad_norm=1e9, logging_steps=1,
                       report_to="none", use_cpu=True, bf16=False, save_strategy="no", disable_tqdm=True, **options)
    trainer = Shown(student, args=arguments, train_dataset=data, processing_class=own, **rest)
    trainer.train()
    far = sum((p.detach() - b).square().sum() for p, b in zip(student.parameters(), before)).sqrt().item()
    return trainer.shown, far

off = dict(lmbda=0.0, max_length=64, max_completion_length=8)
for name, kind, config, data, options, rest in [
        ("ORPO", ORPOTrainer, ORPOConfig, pairs, {}, {}),
        ("GOLD", GOLDTrainer, GOLDConfig, chat, dict(off, use_uld_loss=False), dict(teacher_model=model(own, 1))),
        ("GOLD, other vocab", GOLDTrainer, GOLDConfig, chat,
         dict(off, use_uld_loss=True, teacher_tokenizer_name_or_path="teacher"), dict(teacher_model="teacher")),
        ("Online DPO", TwoAnswers, OnlineDPOConfig, Dataset.from_list([{"prompt": "c d"}]*4),
         dict(max_new_tokens=4), dict(reward_funcs=longer_is_better))]:
    at_once, in_turn = (trained(kind, config, data, *shape, options, **rest) for shape in ((4, 1), (1, 4)))
    print(f"4 x 1 row over 1 x 4 rows: {name:16} logged loss {in_turn[0]/at_once[0]:.2f}, "
          f"weights move {in_turn[1]/at_once[1]:.2f} times as far")
CODE
venv/bin/python run.py > all 2> errors || { cat errors; exit 1; }
grep -E '^(trl|4 x)' all > seen
cat seen
diff expected seen
