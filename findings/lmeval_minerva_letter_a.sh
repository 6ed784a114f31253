#!/usr/bin/env bash
# Minerva's normalisation of answers (lm-eval 0.4.13, minerva_math, "copied character for character" from the paper)
# removes the articles "an " and "a " before it removes spaces, wherever the letters stand: the variable a vanishes,
# and so does the end of \tan and \alpha. So the gold 3a + 2 is 3+2 and accepts 5 or "3 + 2", and a right answer set
# without spaces, 3a+2, is refused.
# It matters for algebra: the exact-match score takes numbers for expressions.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet lm-eval==0.4.13 sympy==1.14.0 math-verify==0.9.0 antlr4-python3-runtime==4.11.1
export HF_HUB_OFFLINE=1 HF_HOME="$dir/hf"
cat > expected <<'EXPECTED'
lm-eval 0.4.13
gold '3a + 2' (3+2) answer '3a + 2' (3+2): True
gold '3a + 2' (3+2) answer '3a+2' (3a+2): False
gold '3a + 2' (3+2) answer '3 + 2' (3+2): True
gold '3a + 2' (3+2) answer '5' (5): True
gold '2\\alpha + 1' (2\alph+1) answer '2\\alpha+1' (2\alpha+1): False
gold '3b + 2' (3b+2) answer '3b+2' (3b+2): True
gold '3b + 2' (3b+2) answer '3 + 2' (3+2): False
EXPECTED
cat > run.py <<'CODE'
from importlib.metadata import version
from lm_eval.tasks.minerva_math.utils import is_equiv, normalize_final_answer

print("lm-eval", version("lm-eval"))
for gold, answer in [("3a + 2", "3a + 2"), ("3a + 2", "3a+2"), ("3a + 2", "3 + 2"), ("3a + 2", "5"),
                     (r"2\alpha + 1", r"2\alpha+1"), ("3b + 2", "3b+2"), ("3b + 2", "3 + 2")]:
    g, a = normalize_final_answer(gold), normalize_final_answer(answer)
    print(f"gold {gold!r} ({g}) answer {answer!r} ({a}): {g == a or is_equiv(g, a)}")
CODE
venv/bin/python run.py > seen 2> errors || { cat errors; exit 1; }
cat seen
diff expected seen
