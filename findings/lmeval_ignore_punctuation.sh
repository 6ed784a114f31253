#!/usr/bin/env bash
# ignore_punctuation of lm-eval's exact_match sounds like forgiving a full stop at the end. In 0.4.13 it deletes every
# mark of string.punctuation wherever it stands, the minus sign, the decimal point and the fraction bar among them: -5
# equals 5, 1.5 equals 15, 3/4 equals 34. Over 200 task files switch it on, among them those of afrimgsm, whose answers
# are numbers.
# It matters for number tasks: an answer with the wrong sign or scale counts as an exact match.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet lm-eval==0.4.13
export HF_HUB_OFFLINE=1 HF_HOME="$dir/hf"
cat > expected <<'EXPECTED'
lm-eval 0.4.13
afrimgsm: ignore_punctuation True
gold '-5' answer '5': 1.0
gold '1.5' answer '15': 1.0
gold '3/4' answer '34': 1.0
gold '5' answer '5.': 1.0
EXPECTED
cat > run.py <<'CODE'
from importlib.metadata import version
from importlib.resources import files
import yaml
from lm_eval.api.metrics import exact_match_hf_evaluate

print("lm-eval", version("lm-eval"))
task = yaml.safe_load((files("lm_eval") / "tasks/afrimgsm/direct_cot/prompt_1/afrimgsm_cot_yaml").read_text())
print("afrimgsm: ignore_punctuation", task["metric_list"][0]["ignore_punctuation"])
for answer, gold in [("5", "-5"), ("15", "1.5"), ("34", "3/4"), ("5.", "5")]:
    score = exact_match_hf_evaluate(predictions=[answer], references=[gold], ignore_punctuation=True)
    print(f"gold {gold!r} answer {answer!r}: {float(score['exact_match'])}")
CODE
venv/bin/python run.py > seen 2> errors || { cat errors; exit 1; }
cat seen
diff expected seen
