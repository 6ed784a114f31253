#!/usr/bin/env bash
# Two local folders of one name (x/data and y/data) whose cards (README.md) name equal files should each
# give its own rows.
# datasets 4.8.5 takes the second from the cache of the first: for a folder it hashes what the card
# says of the files (load.py, LocalDatasetModuleFactory), not the files. Absolute paths don't help, and nothing is said.
# It matters for whatever writes data sets from a template: the second one loads as the first.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet datasets==4.8.5
export HF_HUB_OFFLINE=1 HF_HOME="$dir/hf"
cat > expected <<'EXPECTED'
datasets 4.8.5
equal cards: rows on disk [2, 3], loaded [2, 2]
another file name in the second card: rows on disk [2, 3], loaded [2, 3]
EXPECTED
cat > run.py <<'CODE'
from pathlib import Path
import datasets
import pyarrow as pa
import pyarrow.parquet as pq

print("datasets", datasets.__version__)
card = "---\nconfigs:\n- config_name: rows\n  data_files:\n  - split: train\n    path: {}.parquet\n---\n"
for what, names in (("equal cards", ("rows", "rows")), ("another file name in the second card", ("rows", "more"))):
    loaded = []
    for n, name in zip((2, 3), names):
        folder = Path(what.replace(" ", "-"), str(n), "data").absolute()
        folder.mkdir(parents=True)
        pq.write_table(pa.table({"a": list(range(n))}), folder / f"{name}.parquet")
        (folder / "README.md").write_text(card.format(name))
        loaded.append(len(datasets.load_dataset(str(folder), "rows", split="train")))
    print(f"{what}: rows on disk [2, 3], loaded {loaded}")
CODE
venv/bin/python run.py 2>/dev/null | tee seen
diff expected seen
