#!/usr/bin/env bash
# JSON numbers without a decimal point are exact in Python's reader, at any size. datasets 4.8.5 rounds them without a
# word: beyond 64 bits the whole column becomes float64, small integers too; and one decimal in the column rounds every
# integer beyond 2^53 in other rows. (Integers alone up to 2^63 - 1 are kept.)
# It matters for number theory and cryptography sets: the gold of one row depends on what stands in another.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet datasets==4.8.5
export HF_HUB_OFFLINE=1 HF_HOME="$dir/hf"
cat > expected <<'EXPECTED'
datasets 4.8.5
[9007199254740993, 2] -> [9007199254740993, 2] int64 | first is the same: True
[9007199254740993, 0.5] -> [9007199254740992.0, 0.5] float64 | first is the same: False
[9223372036854775809, 2] -> [9.223372036854776e+18, 2.0] float64 | first is the same: False
[18446744073709551617, 2] -> [1.8446744073709552e+19, 2.0] float64 | first is the same: False
EXPECTED
cat > run.py <<'CODE'
from importlib.metadata import version
import json
from datasets import disable_progress_bars, load_dataset

disable_progress_bars()
print("datasets", version("datasets"))
def load(numbers):
    with open("rows.jsonl", "w") as f: f.write("\n".join(json.dumps({"answer": n}) for n in numbers))
    data = load_dataset("json", data_files="rows.jsonl", split="train", cache_dir="cache")
    return data["answer"][:], data.features["answer"].dtype

for numbers in ([2**53 + 1, 2], [2**53 + 1, 0.5], [2**63 + 1, 2], [2**64 + 1, 2]):
    seen, dtype = load(numbers)
    print(numbers, "->", seen, dtype, "| first is the same:", int(seen[0]) == numbers[0])
CODE
venv/bin/python run.py > seen 2> errors || { cat errors; exit 1; }
cat seen
diff expected seen
