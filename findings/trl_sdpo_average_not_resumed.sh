#!/usr/bin/env bash
# SDPO learns from a teacher that is, by default, an average of the student (teacher_model_kind="ema" of TRL 1.15.0, also
# an option of SDFT). A training that goes on from a checkpoint should go on with the average that it had. With an adapter
# it fails: the average was saved as an adapter "teacher", is loaded with the checkpoint, and is then to be made anew under
# the same name. With all weights the average is not saved at all: it begins again at the untrained student, silently.
# It matters for every training that is stopped: it cannot go on, or goes on with another teacher.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0 trl==1.15.0 transformers==5.17.0 peft==0.21.2 datasets==4.8.5
export HF_HUB_OFFLINE=1 HF_HOME="$dir/hf" TRL_EXPERIMENTAL_SILENCE=1
cat > expected <<'EXPECTED'
trl 1.15.0 peft 0.21.2 transformers 5.17.0
adapter: in the checkpoint adapter_model.safetensors teacher/adapter_model.safetensors
adapter: going on fails: ValueError: Adapter with name 'teacher' already exists.
all weights: in the checkpoint model.safetensors
all weights: the average it goes on with is the untrained student: True, the one that it had: False
EXPECTED
cat > run.py <<'CODE'
from importlib.metadata import version
from pathlib import Path
import torch
from datasets import Dataset
from peft import LoraConfig
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, TrainerCallback
from trl.experimental.sdpo import SDPOConfig, SDPOTrainer

print(*(f"{p} {version(p)}" for p in ("trl", "peft", "transformers")))
words = {w: i for i, w in enumerate(["<pad>", "<eos>", "<unk>", *"abcdefghijklmnopqrstuvwxyz"])}
vocab = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
vocab.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=vocab, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")
torch.manual_seed(0)
LlamaForCausalLM(LlamaConfig(vocab_size=len(words), hidden_size=16, intermediate_size=32, num_hidden_layers=1,
                             num_attention_heads=2, num_key_value_heads=2, pad_token_id=0, eos_token_id=1,
                             bos_token_id=None)).save_pretrained("student")
rows = Dataset.from_list([dict(prompt="a b c", privileged_context="d e f")]*8)

def nothing_paid(completions, **rest): return [0.0]*len(completions)

def trainer(name, peft):
    how = SDPOConfig(output_dir=name, num_generations=2, per_device_train_batch_size=2, max_completion_length=4, max_steps=4,
                     save_steps=2, learning_rate=0.01, lr_scheduler_type="constant", report_to="none", use_cpu=True,
                     bf16=False, include_environment_feedback=True, disable_tqdm=True)
    return SDPOTrainer(model=LlamaForCausalLM.from_pretrained("student"), args=how, train_dataset=rows,
                       processing_class=tokenizer, reward_funcs=nothing_paid,
                       peft_config=LoraConfig(target_modules=["q_proj", "v_proj"]) if peft else None)

class Look(TrainerCallback):
    def __init__(self): self.seen = {}
    def on_step_begin(self, args, state, control, **rest): # the teacher of each step
        model = self.trainer.teacher_model
        self.seen[state.global_step] = [p.detach().clone() for p in model.parameters()]

def same(a, b): return all(torch.allclose(x, y, atol=1e-7) for x, y in zip(a, b))

for name, peft in (("adapter", True), ("all weights", False)):
    whole, again = trainer(name, peft), trainer(name, peft)
    looks = Look(), Look()
    for look, it in zip(looks, (whole, again)):
        look.trainer = it
        it.add_callback(look)
    whole.train()
    saved = Path(name, "checkpoint-2")
    print(f"{name}: in the checkpoint", *sorted(str(f.relative_to(saved)) for f in saved.rglob("*.safetensors")))
    try: again.train(resume_from_checkpoint=str(saved))
    except ValueError as e: print(f"{name}: going on fails: ValueError: {e}")
    else:
        had, has, untrained = looks[0].seen[2], looks[1].seen[2], looks[0].seen[0]
        print(f"{name}: the average it goes on with is the untrained student: {same(has, untrained)}, "
              f"the one that it had: {same(has, had)}")
CODE
venv/bin/python run.py > seen 2> errors || { cat errors; exit 1; }
grep -v "^{" seen > kept
cat kept
diff expected kept
