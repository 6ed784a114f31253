#!/usr/bin/env bash
# add_weighted_adapter mixes adapters by weights; one adapter with weight 1 should come out as itself. In peft 0.21.2 it
# does for plain LoRA. If the adapters were trained with use_rslora, the mixture is sqrt(its rank) times too strong: it
# keeps use_rslora, and its alpha of r stands for a factor of 1 in plain LoRA only. Rank 16: four times by svd and
# linear, 5.7 times by cat of two. And a name that is taken already is left as it is, silently: a search over weights
# that calls its mixture "mix" scores the first weights every time.
# It matters for merged students: no step fails, and the mixture is judged at a strength, or with weights, that nobody set.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0 peft==0.21.2 transformers==5.17.0
export HF_HUB_OFFLINE=1 HF_HOME="$dir/hf"
cat > expected <<'EXPECTED'
peft 0.21.2
weights 1 and 0, svd   : of the first adapter's effect there is 1.00 with LoRA, 4.00 with rsLoRA
weights 1 and 0, linear: of the first adapter's effect there is 1.00 with LoRA, 4.00 with rsLoRA
weights 1 and 0, cat   : of the first adapter's effect there is 1.00 with LoRA, 5.66 with rsLoRA
"mix" with weights 1.0 and 0.0: is the mixture asked for: True
"mix" with weights 0.5 and 0.5: is the mixture asked for: False, is the first one: True
"mix" with weights 0.0 and 1.0: is the mixture asked for: False, is the first one: True
EXPECTED
cat > run.py <<'CODE'
from importlib.metadata import version
import torch
from peft import LoraConfig, get_peft_model

print("peft", version("peft"))
def two(**options):
    torch.manual_seed(0)
    base = torch.nn.Sequential()
    base.add_module("layer", torch.nn.Linear(64, 64))
    how = lambda: LoraConfig(r=16, lora_alpha=16, target_modules=["layer"], **options)
    model = get_peft_model(base, how(), adapter_name="a")
    model.add_adapter("b", how())
    for name in "ab": torch.nn.init.normal_(model.base_model.model.layer.lora_B[name].weight)
    return model

x = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
def effect(model, name):
    model.set_adapter(name)
    with torch.no_grad():
        tuned = model(x)
        with model.disable_adapter(): return tuned - model(x)

for kind in ("svd", "linear", "cat"):
    share = {}
    for use_rslora in (False, True):
        model = two(use_rslora=use_rslora)
        model.add_weighted_adapter(["a", "b"], [1.0, 0.0], "mix", combination_type=kind)
        share[use_rslora] = (effect(model, "mix").norm()/effect(model, "a").norm()).item()
    print(f"weights 1 and 0, {kind:6}: of the first adapter's effect there is {share[False]:.2f} with LoRA, "
          f"{share[True]:.2f} with rsLoRA")
model = two()
a, b = effect(model, "a"), effect(model, "b")
for w in (1.0, 0.5, 0.0):
    model.add_weighted_adapter(["a", "b"], [w, 1 - w], "mix", combination_type="cat")
    mix = effect(model, "mix")
    print(f'"mix" with weights {w} and {1 - w}: is the mixture asked for: {torch.allclose(mix, w*a + (1 - w)*b, atol=1e-3)}'
          + (f", is the first one: {torch.allclose(mix, a, atol=1e-3)}" if w < 1 else ""))
CODE
venv/bin/python run.py > seen 2> errors || { cat errors; exit 1; }
cat seen
diff expected seen
