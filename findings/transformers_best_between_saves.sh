#!/usr/bin/env bash
# load_best_model_at_end with fewer saves than evaluations: transformers 5.17.0 asks that save_steps be a multiple of
# eval_steps, so that 20 and 10 pass, and then notes the best of all evaluations and loads the best of those that fell
# on a save. Is the best one in between, the weights of another step come back, without a word: an earlier save that was
# the best when it was made, or else the last weights. The state says best_global_step and best_metric of the step that
# was never saved. Cards and scripts that report these describe another model than the one that is there.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0 transformers==5.17.0 accelerate==1.15.0
export HF_HUB_OFFLINE=1 HF_HOME="$dir/hf"
cat > expected <<'EXPECTED'
transformers 5.17.0
best at step 10, saved every 10: noted 10, metric 0; checkpoint-10; weights of step 10
best at step 10, saved every 20: noted 10, metric 0; no checkpoint; weights of step 40
best at step 30, saved every 20: noted 30, metric 0; checkpoint-20; weights of step 20
EXPECTED
cat > run.py <<'CODE'
from importlib.metadata import version
from pathlib import Path
import torch
from transformers import Trainer, TrainingArguments

print("transformers", version("transformers"))

class Step(torch.nn.Module): # its weight counts the steps; the validation loss is least at one of them
    def __init__(self, best):
        super().__init__()
        self.weight, self.best = torch.nn.Parameter(torch.zeros(())), best
    def forward(self, x, labels=None):
        loss = -self.weight if self.training else (self.weight - self.best).square()
        return {"loss": loss, "logits": x}

data = [{"x": torch.zeros(1), "labels": torch.zeros(1)}]*40
for best, save in ((10, 10), (10, 20), (30, 20)):
    how = TrainingArguments(f"out-{best}-{save}", max_steps=40, per_device_train_batch_size=1, learning_rate=1.0, optim="sgd",
                            lr_scheduler_type="constant", max_grad_norm=0, eval_strategy="steps", eval_steps=10,
                            save_steps=save, load_best_model_at_end=True, metric_for_best_model="eval_loss",
                            greater_is_better=False, use_cpu=True, report_to="none", disable_tqdm=True)
    trainer = Trainer(Step(best), how, train_dataset=data, eval_dataset=data[:1])
    trainer.train()
    state = trainer.state
    loaded = Path(state.best_model_checkpoint).name if state.best_model_checkpoint else "no checkpoint"
    print(f"best at step {best}, saved every {save}: noted {state.best_global_step}, metric {state.best_metric:.0f}; "
          f"{loaded}; weights of step {trainer.model.weight.item():.0f}")
CODE
venv/bin/python run.py > all 2> errors || { cat errors; exit 1; }
grep -E '^(transformers|best at)' all > seen
cat seen
diff expected seen
