#!/usr/bin/env bash
# score_answer gets a model's text; one expects a low score for any wrong one, as from reasoning-gym's other scorers.
# In 0.1.25 prime_factorization raises ValueError for a factor that is no number (a letter x for the sign, or a
# refusal), while an empty text earns 0.01 and the unfactored number itself earns 0.5.
# It matters for RL: one badly formed sample of thousands ends the training step, unless every caller guards the
# scorer.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet reasoning-gym==0.1.25
cat > expected <<'EXPECTED'
reasoning-gym 0.1.25
gold 3 × 3 × 37: '3 × 3 × 37' scores 1.0
gold 3 × 3 × 37: '333' scores 0.5
gold 3 × 3 × 37: '' scores 0.01
gold 3 × 3 × 37: '3 x 3 x 37' raises ValueError: invalid literal for int() with base 10: '3 x 3 x 37'
gold 3 × 3 × 37: 'I cannot tell' raises ValueError: invalid literal for int() with base 10: 'I cannot tell'
EXPECTED
cat > run.py <<'CODE'
from importlib.metadata import version
import reasoning_gym

print("reasoning-gym", version("reasoning-gym"))
data = reasoning_gym.create_dataset("prime_factorization", size=1, seed=7)
row = data[0]
gold = row["answer"]
product = row["metadata"]["number"]
for answer in [gold, str(product), "", gold.replace("×", "x"), "I cannot tell"]:
    try: print(f"gold {gold}: {answer!r} scores {data.score_answer(answer, row)}")
    except ValueError as error: print(f"gold {gold}: {answer!r} raises ValueError: {error}")
CODE
venv/bin/python run.py > seen 2> errors || { cat errors; exit 1; }
cat seen
diff expected seen
