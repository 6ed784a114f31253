#!/usr/bin/env bash
# A task with the answers "True" and "False" is scored by which of the two is said. reasoning-gym 0.1.25's
# game_of_life_halting compares bool(answer) with bool(gold), and both are texts: every text but the empty one is true,
# so "False", "banana" and the right answer all score 1.0 on every item.
# It matters for RL: the environment pays full reward for anything, and an evaluation reports 100%.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet reasoning-gym==0.1.25
cat > expected <<'EXPECTED'
reasoning-gym 0.1.25
gold answers {'True': 10, 'False': 10}
score of 'True' for every item: 1.0
score of 'False' for every item: 1.0
score of 'banana' for every item: 1.0
score of '' for every item: 0.0
EXPECTED
cat > run.py <<'CODE'
from importlib.metadata import version
import reasoning_gym

print("reasoning-gym", version("reasoning-gym"))
data = reasoning_gym.create_dataset("game_of_life_halting", size=20, seed=7)
print("gold answers", {gold: sum(x["answer"] == gold for x in data) for gold in ("True", "False")})
for answer in ["True", "False", "banana", ""]:
    print(f"score of {answer!r} for every item:", sum(data.score_answer(answer, x) for x in data) / len(data))
CODE
venv/bin/python run.py > seen 2> errors || { cat errors; exit 1; }
cat seen
diff expected seen
