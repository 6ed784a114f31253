#!/usr/bin/env bash
# IFEval's checks are code, so one answer has one score. In lm-eval 0.4.13 the letter-frequency check replaces a
# "letter" outside a-z by one drawn at random, unseeded, though IFEval has prompts that ask for "#" or "!" so many
# times: the same answer passes or fails by luck, against a letter that nobody asked for.
# It matters for comparing checkpoints: totals move between two scorings of the same file, and a full answer scores by
# how common a letter is.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet lm-eval==0.4.13 langdetect==1.0.9 immutabledict==4.3.1 nltk==3.10.4
export HF_HUB_OFFLINE=1 HF_HOME="$dir/hf"
cat > expected <<'EXPECTED'
lm-eval 0.4.13
at least 4 of '#' in '#eat #tea #teeth #ease': outcomes of 300 checks [False, True], '#' was counted: False
at least 4 of 'e' in '#eat #tea #teeth #ease': outcomes of 300 checks [True], 'e' was counted: True
EXPECTED
cat > run.py <<'CODE'
from importlib.metadata import version
import os
os.environ["LOCAL_RANK"] = "1"  # rank 0 would fetch nltk's sentence data at import
from lm_eval.tasks.ifeval.instructions import LetterFrequencyChecker

print("lm-eval", version("lm-eval"))
def check(answer, letter):
    checker = LetterFrequencyChecker("keywords:letter_frequency")
    checker.build_description(letter=letter, let_frequency=4, let_relation="at least")
    return checker.check_following(answer), checker.get_instruction_args()["letter"]

answer = "#eat #tea #teeth #ease"
seen = {letter: [check(answer, letter) for _ in range(300)] for letter in ("#", "e")}
for letter, rows in seen.items():
    print(f"at least 4 of {letter!r} in {answer!r}: outcomes of 300 checks {sorted({ok for ok, _ in rows})}, "
          f"{letter!r} was counted: {all(l == letter for _, l in rows)}")
CODE
venv/bin/python run.py > seen 2> errors || { cat errors; exit 1; }
cat seen
diff expected seen
