#!/usr/bin/env bash
# datasets 4.7 gave JSON files with mixed types a Json column, and its docs promise the values back as they were. In
# 4.8.5 a text in such a column is parsed once more: "007" returns as 7, "1.50" as 1.5, "null" as None, "[1, 2]" as a
# list. One number among answers written as texts does it to all of them; one message whose content is a list of parts
# turns every other message that reads as JSON into numbers, lists or dicts.
# It matters for gold answers and chat data: the loader changes them silently, and templates then fail or print None.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet datasets==4.8.5
export HF_HUB_OFFLINE=1 HF_HOME="$dir/hf"
cat > expected <<'EXPECTED'
datasets 4.8.5
texts alone:       ['007', '1.50', 'null', 'true', '[1, 2]', '1e3', 'x=5']
and one number:    [7, 1.5, None, True, [1, 2], 1000.0, 'x=5', 18]
contents in file:  ['12', [{'type': 'text', 'text': '12'}]]
contents returned: [12, [{'type': 'text', 'text': '12'}]]
EXPECTED
cat > run.py <<'CODE'
from importlib.metadata import version
import json
from datasets import disable_progress_bars, load_dataset

disable_progress_bars()
print("datasets", version("datasets"))
def load(rows):
    with open("rows.jsonl", "w") as f: f.write("\n".join(map(json.dumps, rows)))
    return load_dataset("json", data_files="rows.jsonl", split="train", cache_dir="cache")

texts = ["007", "1.50", "null", "true", "[1, 2]", "1e3", "x=5"]
print("texts alone:      ", load([{"answer": t} for t in texts])["answer"][:])
print("and one number:   ", load([{"answer": t} for t in texts] + [{"answer": 18}])["answer"][:])
chats = [[{"role": "user", "content": "12"}], [{"role": "user", "content": [{"type": "text", "text": "12"}]}]]
contents = [m[0]["content"] for m in load([{"messages": m} for m in chats])["messages"]]
print("contents in file: ", [m[0]["content"] for m in chats])
print("contents returned:", contents)
CODE
venv/bin/python run.py > seen 2> errors || { cat errors; exit 1; }
cat seen
diff expected seen
