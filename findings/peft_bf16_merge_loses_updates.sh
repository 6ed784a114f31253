#!/usr/bin/env bash
# merge_and_unload should leave a model that answers as the adapter did. peft 0.21.2 adds the update in the base
# weights' type; in bfloat16, with 8 bits of mantissa, an update far below a weight's own rounding step is lost: at
# 0.1% of the weights' spread, as after a short LoRA run, three weights of four don't move and half of the update
# arrives. It says nothing (safe_merge looks for NaN only), though the adapter itself is kept in float32. In float32
# all of it arrives.
# It matters for publishing: what was evaluated unmerged is not what the merged folder holds.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0 peft==0.21.2
export HF_HUB_OFFLINE=1 HF_HOME="$dir/hf"
cat > expected <<'EXPECTED'
peft 0.21.2
torch.bfloat16, update 0.1% of the weights: about 80% don't move, 50% arrives
torch.bfloat16, update 1.0% of the weights: about 20% don't move, 100% arrives
torch.float32, update 0.1% of the weights: about 0% don't move, 100% arrives
torch.float32, update 1.0% of the weights: about 0% don't move, 100% arrives
EXPECTED
cat > run.py <<'CODE'
from importlib.metadata import version
import torch
from peft import LoraConfig, get_peft_model

print("peft", version("peft"))
def merge(dtype, size):
    torch.manual_seed(0)
    model = torch.nn.Sequential()
    model.add_module("layer", torch.nn.Linear(512, 512, bias=False, dtype=dtype))
    torch.nn.init.normal_(model.layer.weight, std=0.02)
    before = model.layer.weight.detach().float().clone()
    tuned = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules=["layer"]))
    lora = tuned.base_model.model.layer
    lora_b = lora.lora_B["default"].weight.data
    lora_b.normal_()
    lora_b *= size * 0.02 / lora.get_delta_weight("default").std()
    update = lora.get_delta_weight("default").float()
    moved = tuned.merge_and_unload(safe_merge=True).layer.weight.detach().float() - before
    return (moved == 0).float().mean().item(), ((moved * update).sum() / update.square().sum()).item()

for dtype in (torch.bfloat16, torch.float32):
    for size in (0.001, 0.01):
        still, arrived = merge(dtype, size)
        seen = f"about {round(still, 1):.0%} don't move, {round(arrived, 1):.0%} arrives"
        print(f"{dtype}, update {size:.1%} of the weights: {seen}")
CODE
venv/bin/python run.py > seen 2> errors || { cat errors; exit 1; }
cat seen
diff expected seen
