#!/usr/bin/env bash
# A JSON string is a string. datasets 4.8.5 reads a JSON column whose texts all look like dates as timestamp[s]: the
# answer "2024-01-05" comes back as datetime(2024, 1, 5, 0, 0), a text with an offset (+02:00) is moved to UTC and
# loses it. One other text in the column, or Dataset.from_list, keeps the strings.
# It matters for date questions: the prompt or gold that a template prints is "2024-01-05 00:00:00", not the file's.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet datasets==4.8.5
export HF_HUB_OFFLINE=1 HF_HOME="$dir/hf"
cat > expected <<'EXPECTED'
datasets 4.8.5
['2024-01-05'] -> ['2024-01-05 00:00:00'] Value('timestamp[s]')
['2024-01-05T10:00:00+02:00'] -> ['2024-01-05 08:00:00'] Value('timestamp[s]')
['2024-01-05T10:00:00Z', '2024-01-05'] -> ['2024-01-05 10:00:00', '2024-01-05 00:00:00'] Value('timestamp[s]')
['2024-01-05', 'unknown'] -> ['2024-01-05', 'unknown'] Value('string')
['10:30'] -> ['10:30'] Value('string')
['2024-01'] -> ['2024-01'] Value('string')
from_list: ['2024-01-05']
EXPECTED
cat > run.py <<'CODE'
from importlib.metadata import version
import json
from datasets import Dataset, disable_progress_bars, load_dataset

disable_progress_bars()
print("datasets", version("datasets"))
def load(texts):
    with open("rows.jsonl", "w") as f: f.write("\n".join(json.dumps({"answer": t}) for t in texts))
    data = load_dataset("json", data_files="rows.jsonl", split="train", cache_dir="cache")
    return [str(x) for x in data["answer"]], data.features["answer"]

for texts in (["2024-01-05"], ["2024-01-05T10:00:00+02:00"], ["2024-01-05T10:00:00Z", "2024-01-05"],
              ["2024-01-05", "unknown"], ["10:30"], ["2024-01"]):
    print(texts, "->", *load(texts))
print("from_list:", Dataset.from_list([{"answer": "2024-01-05"}])["answer"][:])
CODE
venv/bin/python run.py > seen 2> errors || { cat errors; exit 1; }
cat seen
diff expected seen
