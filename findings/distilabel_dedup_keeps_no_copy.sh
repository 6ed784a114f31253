#!/usr/bin/env bash
# Removing duplicates should leave one text of each group. EmbeddingDedup of distilabel 1.5.3 marks the neighbours of
# every row, those of a marked row as well: two near copies name each other, and both go. DeitaFiltering, too, measures
# each row against all others and not against those it has chosen, so it returns neither, however large the budget.
# FaissNearestNeighbour, which its text names as the step before, gives squared distances by default, where near is
# small: with both at their defaults copies stay, and what goes is the nearest row to each that has none.
# It matters for choosing prompts to distil from: the subjects asked about most often vanish from the set.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet distilabel==1.5.3 datasets==4.8.5 faiss-cpu==1.15.1
export HOME="$dir" HF_HUB_OFFLINE=1 HF_HOME="$dir/hf"
cat > expected <<'EXPECTED'
distilabel 1.5.3
EmbeddingDedup after inner products
  gone 'What is 2 + 2?'         nearest 1 at 0.995
  gone 'How much is 2 + 2?'     nearest 0 at 0.995
  kept 'Name a noble gas.'      nearest 3 at 0.352
  kept 'Who wrote Emma?'        nearest 2 at 0.352
EmbeddingDedup after the default
  kept 'What is 2 + 2?'         nearest 1 at 0.010
  kept 'How much is 2 + 2?'     nearest 0 at 0.010
  gone 'Name a noble gas.'      nearest 3 at 1.296
  gone 'Who wrote Emma?'        nearest 2 at 1.296
DeitaFiltering, 4 wanted, 2 chosen: ['Name a noble gas.', 'Who wrote Emma?']
EXPECTED
cat > run.py <<'CODE'
from importlib.metadata import version
import faiss
from distilabel.steps import DeitaFiltering, EmbeddingDedup, FaissNearestNeighbour

print("distilabel", version("distilabel"))
texts = {"What is 2 + 2?": [1.0, 0, 0], "How much is 2 + 2?": [0.995, 0.0999, 0],
         "Name a noble gas.": [0, 0, 1.0], "Who wrote Emma?": [0, 0.936, 0.352]}
for name, options in [("inner products", dict(metric_type=faiss.METRIC_INNER_PRODUCT)), ("the default", {})]:
    nearest, dedup = FaissNearestNeighbour(**options), EmbeddingDedup()
    nearest.load(), dedup.load()
    rows = next(dedup.process(next(nearest.process([dict(text=t, embedding=e) for t, e in texts.items()]))))
    print("EmbeddingDedup after", name)
    for row in rows:
        print(f"  {'kept' if row['keep_row_after_embedding_filtering'] else 'gone'} {row['text']!r:24}"
              f" nearest {row['nn_indices'][0]} at {row['nn_scores'][0]:.3f}")
filtering = DeitaFiltering(data_budget=4, diversity_threshold=0.5)
filtering.load()
rows = [dict(text=t, embedding=e, evol_instruction_score=3.0, evol_response_score=4.0) for t, e in texts.items()]
chosen = [row["text"] for row in next(filtering.process(rows))]
print(f"DeitaFiltering, 4 wanted, {len(chosen)} chosen:", chosen)
CODE
venv/bin/python run.py > all 2> errors || { cat errors; exit 1; }
grep -E '^(distilabel|EmbeddingDedup|DeitaFiltering|  kept|  gone)' all > seen
cat seen
diff expected seen
