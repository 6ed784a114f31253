#!/usr/bin/env bash
# A GGUF file names its end token, tokenizer.ggml.eos_token_id. For the llama architecture transformers 5.17.0 looks up
# the begin token in its place: AutoTokenizer.from_pretrained(..., gguf_file=...) has eos_token equal to bos_token,
# here <|im_start|> where the file says <|im_end|>. The model's config from the same file has the right id.
# It matters for generation and training: the student appends the begin-of-turn token to its targets and never stops at
# its own end of turn. (Any llama GGUF; the file made here has the fields of SmolLM2's.)
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0 transformers==5.17.0 gguf==0.19.0
export HF_HUB_OFFLINE=1 HF_HOME="$dir/hf"
cat > expected <<'EXPECTED'
transformers 5.17.0 gguf 0.19.0
file: bos_token <|im_start|> | tokenizer: <|im_start|>
file: eos_token <|im_end|> | tokenizer: <|im_start|>
config: eos <|im_end|>
EXPECTED
cat > run.py <<'CODE'
from importlib.metadata import version
from gguf import GGUFReader, GGUFWriter
from tokenizers.pre_tokenizers import ByteLevel
from transformers import AutoConfig, AutoTokenizer

names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *sorted(ByteLevel.alphabet()), "12", "ab"]
file = GGUFWriter("tiny.gguf", "llama")
for add, value in [(file.add_context_length, 64), (file.add_embedding_length, 8), (file.add_block_count, 1),
                   (file.add_feed_forward_length, 8), (file.add_head_count, 1), (file.add_head_count_kv, 1),
                   (file.add_layer_norm_rms_eps, 1e-5), (file.add_vocab_size, len(names)),
                   (file.add_tokenizer_model, "gpt2"), (file.add_tokenizer_pre, "smollm"), (file.add_token_list, names),
                   (file.add_token_types, [3] * 3 + [1] * 258), (file.add_token_merges, ["1 2", "a b"]),
                   (file.add_bos_token_id, 1), (file.add_eos_token_id, 2)]:
    add(value)
for write in (file.write_header_to_file, file.write_kv_data_to_file, file.write_tensors_to_file, file.close): write()

fields = GGUFReader("tiny.gguf").fields
tokenizer = AutoTokenizer.from_pretrained(".", gguf_file="tiny.gguf")
print("transformers", version("transformers"), "gguf", version("gguf"))
for kind in ("bos", "eos"):
    print(f"file: {kind}_token", names[fields[f"tokenizer.ggml.{kind}_token_id"].contents()],
          "| tokenizer:", getattr(tokenizer, f"{kind}_token"))
print("config: eos", names[AutoConfig.from_pretrained(".", gguf_file="tiny.gguf").eos_token_id])
CODE
venv/bin/python run.py > seen 2> errors || { cat errors; exit 1; }
cat seen
diff expected seen
