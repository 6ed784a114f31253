#!/usr/bin/env bash
# A grader that calls 0.5 and \frac{1}{2} equal is expected to do so for 0.25 and \frac{1}{4}. The is_equiv of lm-eval
# 0.4.13's hendrycks_math knows that one decimal by name: 0.25, 0.50 and -0.5 are not their fractions. A point gets its
# zero (.5 is 0.5) at the start only, so -.5 is not -0.5; 18.0 and 1,800 are not 18 and 1800. A left side of up to two
# letters is dropped before "=": xy=5 and 10=5 are both 5.
# It matters for MATH scores: they move with spelling, and nothing in the task's name says that it compares texts.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet lm-eval==0.4.13
export HF_HUB_OFFLINE=1 HF_HOME="$dir/hf"
cat > expected <<'EXPECTED'
lm-eval 0.4.13
gold \frac{1}{2} answer 0.5: True
gold \frac{1}{4} answer 0.25: False
gold \frac{1}{2} answer 0.50: False
gold -\frac{1}{2} answer -0.5: False
gold 0.5 answer .5: True
gold -0.5 answer -.5: False
gold 18 answer 18.0: False
gold 1800 answer 1,800: False
gold 5 answer xy=5: True
gold 5 answer 10=5: True
gold 5 answer f(x)=5: False
EXPECTED
cat > run.py <<'CODE'
from importlib.metadata import version
from lm_eval.tasks.hendrycks_math.utils import is_equiv

print("lm-eval", version("lm-eval"))
half, quarter = r"\frac{1}{2}", r"\frac{1}{4}"
for gold, answer in [(half, "0.5"), (quarter, "0.25"), (half, "0.50"), ("-" + half, "-0.5"),
                     ("0.5", ".5"), ("-0.5", "-.5"), ("18", "18.0"), ("1800", "1,800"), ("5", "xy=5"), ("5", "10=5"),
                     ("5", "f(x)=5")]:
    print(f"gold {gold} answer {answer}: {is_equiv(gold, answer)}")
CODE
venv/bin/python run.py > seen 2> errors || { cat errors; exit 1; }
cat seen
diff expected seen
