#!/usr/bin/env bash
# A folder of data files should be read whole, or something should be said. datasets 4.8.5 reads the files of the
# most frequent kind and leaves the others; and as soon as one name contains a split's word (dev, test ...), files whose
# names contain none are left, too. There is no warning.
# It matters for a folder of problems that grew over time: what is trained on is a part of it.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet datasets==4.8.5
export HF_HUB_OFFLINE=1 HF_HOME="$dir/hf"
cat > expected <<'EXPECTED'
datasets 4.8.5
a.jsonl, b.csv: {'train': 1} rows of 2
dev_problems.jsonl, problems.jsonl: {'validation': 1} rows of 2
a.jsonl, b.jsonl: {'train': 2} rows of 2
EXPECTED
cat > run.py <<'CODE'
from pathlib import Path
import datasets

print("datasets", datasets.__version__)
content = {".jsonl": '{"q": "one"}\n', ".csv": "q\none\n"}
for i, names in enumerate((("a.jsonl", "b.csv"), ("dev_problems.jsonl", "problems.jsonl"), ("a.jsonl", "b.jsonl"))):
    folder = Path(f"folder{i}")
    folder.mkdir()
    for name in names:
        (folder / name).write_text(content[Path(name).suffix])
    found = datasets.load_dataset(str(folder))
    print(f"{', '.join(names)}: {({split: len(rows) for split, rows in found.items()})} rows of 2")
CODE
venv/bin/python run.py 2>/dev/null | tee seen
diff expected seen
