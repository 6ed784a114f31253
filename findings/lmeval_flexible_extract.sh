#!/usr/bin/env bash
# flexible-extract is gsm8k's lenient score: the last number of the answer. In lm-eval 0.4.13 its pattern allows a
# match without a digit, (-?[$0-9.,]{2,}), so the last "$$", "$." or "..." is taken for the number, and of a range or a
# date the hyphen becomes a sign. Normalisation then removes the mark, and an empty text is compared with the gold.
# It matters since chat models end in LaTeX: $\boxed{18}$. and $$\boxed{18}$$ score 0 where \boxed{18} scores 1.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet lm-eval==0.4.13
export HF_HUB_OFFLINE=1 HF_HOME="$dir/hf"
cat > expected <<'EXPECTED'
lm-eval 0.4.13 pattern (-?[$0-9.,]{2,})|(-?[0-9]+)
'so \\boxed{18}': extracted '18', score 1.0
'so $\\boxed{18}$.': extracted '$.', score 0.0
'$$\\boxed{18}$$': extracted '$$', score 0.0
'She makes 18 dollars.': extracted '18', score 1.0
'She makes 18...': extracted '18...', score 0.0
'She makes 18. I hope that helps...': extracted '...', score 0.0
'It takes 16-18': extracted '-18', score 0.0
EXPECTED
cat > run.py <<'CODE'
from importlib.metadata import version
from importlib.resources import files
import yaml
from lm_eval.api.metrics import exact_match_hf_evaluate
from lm_eval.filters.extraction import RegexFilter

task = yaml.safe_load((files("lm_eval") / "tasks/gsm8k/gsm8k.yaml").read_text())
rule = next(f for f in task["filter_list"] if f["name"] == "flexible-extract")["filter"][0]
last_number = RegexFilter(rule["regex_pattern"], rule["group_select"])
ignore = task["metric_list"][0]["regexes_to_ignore"]
print("lm-eval", version("lm-eval"), "pattern", rule["regex_pattern"])
for text in [r"so \boxed{18}", r"so $\boxed{18}$.", r"$$\boxed{18}$$", "She makes 18 dollars.", "She makes 18...",
             "She makes 18. I hope that helps...", "It takes 16-18"]:
    seen = last_number.apply([[text]], [{}])[0][0]
    score = exact_match_hf_evaluate(predictions=[seen], references=["... #### 18"], regexes_to_ignore=ignore)
    print(f"{text!r}: extracted {seen!r}, score {float(score['exact_match'])}")
CODE
venv/bin/python run.py > seen 2> errors || { cat errors; exit 1; }
cat seen
diff expected seen
