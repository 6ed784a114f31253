#!/usr/bin/env bash
# A wrong number should score 0. reasoning-gym 0.1.25's default scorer (chain_sum, lcm, count_primes and dozens of
# others) pays len(gold)/len(answer) to any text that contains the gold's letters, meant for a right answer with words
# around it: so the negative of the gold, ten times the gold, and a hedge that names both True and False are paid, and
# often more than the right number in a sentence.
# It matters for RL: -156 for 156 earns 0.75, "The answer is 156." only 0.17, and the policy learns to be short, not
# right.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet reasoning-gym==0.1.25
cat > expected <<'EXPECTED'
reasoning-gym 0.1.25
chain_sum gold 156 {'156': 1.0, '-156': 0.75, '1560': 0.75, '9156': 0.75, 'The answer is 156.': 0.17}
lcm gold 3525 {'3525': 1.0, '35250': 0.8}
course_schedule gold True {'True': 1.0, 'True or False': 0.31}
EXPECTED
cat > run.py <<'CODE'
from importlib.metadata import version
import reasoning_gym

print("reasoning-gym", version("reasoning-gym"))
for task, make in [("chain_sum", lambda g: [g, f"-{g}", f"{g}0", f"9{g}", f"The answer is {g}."]),
                   ("lcm", lambda g: [g, f"{g}0"]), ("course_schedule", lambda g: [g, "True or False"])]:
    data = reasoning_gym.create_dataset(task, size=1, seed=7)
    gold = data[0]["answer"]
    print(task, "gold", gold, {a: round(data.score_answer(a, data[0]), 2) for a in make(gold)})
CODE
venv/bin/python run.py > seen 2> errors || { cat errors; exit 1; }
cat seen
diff expected seen
