#!/usr/bin/env bash
# A judge that writes one JSON object per answer, on lines of their own or in fences, is expected to give a list when
# json_repair reads it. In 0.64.4 an object of the same keys and types as the one before it is taken for a newer version
# of that: only the last verdict is left, as a dict. A score of 4.5 among whole numbers, or null, is of another type: of
# three verdicts two are left, or all three, depending on its place. In brackets or after commas they stay; strict=True
# raises.
# It matters for batched judging: what comes back depends on the scores, and a reader that takes a dict for a single
# verdict gives the last answer's to all.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet json-repair==0.64.4
cat > expected <<'EXPECTED'
json-repair 0.64.4
lines, 1 5 2        {'answer': 3, 'score': 2}
fences, 1 5 2       {'answer': 3, 'score': 2}
lines, 1 5 2.5      [{'answer': 2, 'score': 5}, {'answer': 3, 'score': 2.5}]
lines, 1 4.5 2      [{'answer': 1, 'score': 1}, {'answer': 2, 'score': 4.5}, {'answer': 3, 'score': 2}]
lines, 1 null 2     [{'answer': 1, 'score': 1}, {'answer': 2, 'score': None}, {'answer': 3, 'score': 2}]
commas, 1 5 2       [{'answer': 1, 'score': 1}, {'answer': 2, 'score': 5}, {'answer': 3, 'score': 2}]
strict, 1 5 2       ValueError: Multiple top-level JSON elements found in strict mode.
EXPECTED
cat > run.py <<'CODE'
from importlib.metadata import version
import json
import json_repair

print("json-repair", version("json-repair"))
def verdicts(*scores): return [json.dumps(dict(answer=i, score=s)) for i, s in enumerate(scores, 1)]
def show(name, text): print(f"{name:19}", json_repair.loads(text))
show("lines, 1 5 2", "\n".join(verdicts(1, 5, 2)))
show("fences, 1 5 2", "\n\n".join(f"```json\n{v}\n```" for v in verdicts(1, 5, 2)))
show("lines, 1 5 2.5", "\n".join(verdicts(1, 5, 2.5)))
show("lines, 1 4.5 2", "\n".join(verdicts(1, 4.5, 2)))
show("lines, 1 null 2", "\n".join(verdicts(1, None, 2)))
show("commas, 1 5 2", ", ".join(verdicts(1, 5, 2)))
try: json_repair.loads("\n".join(verdicts(1, 5, 2)), strict=True)
except ValueError as error: print("strict, 1 5 2       ValueError:", error)
CODE
venv/bin/python run.py > seen 2> errors || { cat errors; exit 1; }
cat seen
diff expected seen
