#!/usr/bin/env bash
# A GGUF file names its pre-tokenizer, tokenizer.ggml.pre; "smollm" cuts every digit off before the merges.
# transformers 5.17.0 doesn't read the field: each llama file with a gpt2 vocabulary gets GPT-2's pattern. "\n\n1." is
# then two tokens "\n" where the model learnt one "\n\n" (\s+(?!\S) leaves the last newline to the digit), and a number
# is one piece for the merges.
# It matters silently: every numbered list and table row is tokens the model never saw, worth several nats each.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0 transformers==5.17.0 gguf==0.19.0
export HF_HUB_OFFLINE=1 HF_HOME="$dir/hf"
cat > expected <<'EXPECTED'
transformers 5.17.0 gguf 0.19.0
as loaded: '\n\n1.' -> ['Ċ', 'Ċ', '1', '.']
as loaded: '12' -> ['12']
as the file says: '\n\n1.' -> ['ĊĊ', '1', '.']
as the file says: '12' -> ['1', '2']
EXPECTED
cat > run.py <<'CODE'
from importlib.metadata import version
from gguf import GGUFWriter
from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
from transformers import AutoTokenizer

names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *sorted(ByteLevel.alphabet()), "12", "ĊĊ"]
file = GGUFWriter("tiny.gguf", "llama")
for add, value in [(file.add_context_length, 64), (file.add_embedding_length, 8), (file.add_block_count, 1),
                   (file.add_feed_forward_length, 8), (file.add_head_count, 1), (file.add_head_count_kv, 1),
                   (file.add_layer_norm_rms_eps, 1e-5), (file.add_vocab_size, len(names)),
                   (file.add_tokenizer_model, "gpt2"), (file.add_tokenizer_pre, "smollm"), (file.add_token_list, names),
                   (file.add_token_types, [3] * 3 + [1] * 258), (file.add_token_merges, ["1 2", "Ċ Ċ"]),
                   (file.add_bos_token_id, 1), (file.add_eos_token_id, 2)]:
    add(value)
for write in (file.write_header_to_file, file.write_kv_data_to_file, file.write_tensors_to_file, file.close): write()

tokenizer = AutoTokenizer.from_pretrained(".", gguf_file="tiny.gguf")
print("transformers", version("transformers"), "gguf", version("gguf"))
texts = ("\n\n1.", "12")
for text in texts: print(f"as loaded: {text!r} -> {tokenizer.tokenize(text)}")
byte_level = ByteLevel(add_prefix_space=False)
tokenizer.backend_tokenizer.pre_tokenizer = Sequence([Digits(individual_digits=True), byte_level])
for text in texts: print(f"as the file says: {text!r} -> {tokenizer.tokenize(text)}")
CODE
venv/bin/python run.py > seen 2> errors || { cat errors; exit 1; }
cat seen
diff expected seen
