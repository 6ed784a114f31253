#!/usr/bin/env bash
# A choice is found when the answer names it. lm-eval 0.4.13's multi_choice_regex (gpqa's flexible-extract, flan mmlu)
# looks for the choices' texts anywhere, inside words too, before it looks for a letter: with the choices Yes and No,
# "I do not know" is (B) since "know" has "no" in it, and "Answer: A, of course not" is (B) too. Where no text is
# found, any A or B after a colon counts: "Note: A triangle ..." is (A), "Answer: Both" is (B).
# It matters for refusals: they are graded as answers, right whenever the gold is the short word.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet lm-eval==0.4.13
export HF_HUB_OFFLINE=1 HF_HOME="$dir/hf"
cat > expected <<'EXPECTED'
lm-eval 0.4.13
['Yes', 'No'] 'I do not know.' -> (B)
['Yes', 'No'] 'Answer: A, of course not B' -> (B)
['red', 'blue'] 'It is infrared.' -> (A)
['3', '30'] 'Answer: A, since 0.33 is too small' -> (A)
['circle', 'square'] 'Note: A triangle is neither.' -> (A)
['circle', 'square'] 'Answer: Both' -> (B)
EXPECTED
cat > run.py <<'CODE'
from importlib.metadata import version
from lm_eval.filters.extraction import MultiChoiceRegexFilter

print("lm-eval", version("lm-eval"))
find = MultiChoiceRegexFilter(regex_pattern="(\\([A-Z]\\))", group_select=-1, ignore_case=True, ignore_punctuation=True)
for choices, text in [(["Yes", "No"], "I do not know."), (["Yes", "No"], "Answer: A, of course not B"),
                      (["red", "blue"], "It is infrared."), (["3", "30"], "Answer: A, since 0.33 is too small"),
                      (["circle", "square"], "Note: A triangle is neither."), (["circle", "square"], "Answer: Both")]:
    print(choices, repr(text), "->", find.apply([[text]], [{"choices": choices}])[0][0])
CODE
venv/bin/python run.py > seen 2> errors || { cat errors; exit 1; }
cat seen
diff expected seen
