#!/usr/bin/env bash
# transformers 5.17.0: ContinuousBatchingConfig.max_memory_percent is "of free GPU memory", by default 0.9. On a CPU
# it is of all the memory that the machine has, whatever else is in use, and it is filled: one prompt of four tokens
# makes generate_batch hold most of the machine, mainly as an attention mask for up to 8192 tokens at once.
# It matters because the process, or another one, is then killed; set num_blocks and max_batch_tokens on a CPU.
# Shown with a machine said to have 3 GiB, of which 0.5 are free.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0 transformers==5.17.0 psutil==7.2.2
export HF_HUB_OFFLINE=1 HF_HOME="$dir/hf"
cat > expected <<'EXPECTED'
transformers 5.17.0 torch 2.13.0
0.5 of 3 GiB are free; one prompt of 4 tokens, 2 new ones
sizes given: the process grows by less than 0.1 GiB
sizes left out: the process grows by more than 2 GiB
EXPECTED
cat > run.py <<'CODE'
import types
import psutil
import torch
import transformers
from transformers import ContinuousBatchingConfig, GenerationConfig, LlamaConfig, LlamaForCausalLM

psutil.virtual_memory = lambda: types.SimpleNamespace(total=3 * 2**30, available=2**29)
tiny = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, vocab_size=64)
model = LlamaForCausalLM(LlamaConfig(**tiny)).eval()
how = GenerationConfig(do_sample=False, max_new_tokens=2, eos_token_id=-1, pad_token_id=0)

def peak():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) / 2**20

print("transformers", transformers.__version__, "torch", torch.__version__.partition("+")[0])
print("0.5 of 3 GiB are free; one prompt of 4 tokens, 2 new ones")
model.generate_batch([[1, 2, 3]], how, ContinuousBatchingConfig(num_blocks=2, max_batch_tokens=64))   # warms up
for name, sizes in {"sizes given": dict(num_blocks=4, max_batch_tokens=64), "sizes left out": {}}.items():
    before = peak()
    model.generate_batch([[1, 2, 3, 4]], how, ContinuousBatchingConfig(**sizes))
    grown = peak() - before
    size = "less than 0.1 GiB" if grown < .1 else "more than 2 GiB" if grown > 2 else f"{grown:.1f} GiB"
    print(f"{name}: the process grows by {size}")
CODE
venv/bin/python run.py > seen 2> errors || { cat errors; exit 1; }
cat seen
diff expected seen
