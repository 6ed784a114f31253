#!/usr/bin/env bash
# transformers 5.17.0: generate_batch (continuous batching) is there to have many texts at work without padding. Without
# flash attention, so on every CPU, it lays the caches of all texts end to end and lets each text attend to all of them,
# with a mask that then hides the others: n texts at work cost n * n of what one costs, where padded generate costs n.
# It matters on a CPU, or with sdpa on a GPU: beyond a few texts at once, attention to what is hidden is most work.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0 transformers==5.17.0 psutil==7.2.2
export HF_HUB_OFFLINE=1 HF_HOME="$dir/hf"
cat > expected <<'EXPECTED'
transformers 5.17.0 torch 2.13.0
last step of generate, products of a query and a key for each head: 1 text 39, 16 texts 624: 16 times
last step of generate_batch, products of a query and a key for each head: 1 text 39, 16 texts 9984: 256 times
EXPECTED
cat > run.py <<'CODE'
import torch
import transformers
from transformers import ContinuousBatchingConfig, GenerationConfig, LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
tiny = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, vocab_size=64)
model = LlamaForCausalLM(LlamaConfig(**tiny)).eval()
attend, sizes = torch.nn.functional.scaled_dot_product_attention, []

def counted(query, key, value, *args, **more):
    sizes.append(query.shape[0] * query.shape[2] * key.shape[2])   # texts in the batch, queries, keys
    return attend(query, key, value, *args, **more)

torch.nn.functional.scaled_dot_product_attention = counted
how = GenerationConfig(do_sample=False, max_new_tokens=8, eos_token_id=-1, pad_token_id=0)
small = ContinuousBatchingConfig(num_blocks=64, max_batch_tokens=1024)
ways = {"generate": lambda prompts: model.generate(torch.tensor(prompts), generation_config=how),
        "generate_batch": lambda prompts: model.generate_batch(prompts, how, small)}
print("transformers", transformers.__version__, "torch", torch.__version__.partition("+")[0])
for name, write in ways.items():
    last = []
    for texts in (1, 16):
        write([[(i + j) % 60 for j in range(32)] for i in range(texts)])   # 32 tokens each; the last step reads 39
        last.append(sizes[-1])
    print(f"last step of {name}, products of a query and a key for each head: 1 text {last[0]}, 16 texts {last[1]}: "
          f"{last[1] // last[0]} times")
CODE
venv/bin/python run.py > seen 2> errors || { cat errors; exit 1; }
cat seen
diff expected seen
