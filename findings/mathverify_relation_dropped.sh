#!/usr/bin/env bash
# "not equal to 5" or "at most 5" is no statement that the answer is 5. math-verify 0.9.0 drops a leading \neq, \leq,
# \geq, \le or \ge and is left with the number, so each of them is graded as 5; a leading < or > is kept (and matches
# nothing). It also accepts a false equation whose last side is the gold: 3+3=5 for 5.
# It matters for rewards: the negation of the answer and a wrong computation both score 1.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet math-verify==0.9.0
cat > expected <<'EXPECTED'
math-verify 0.9.0
gold 5 answer $\neq 5$: True  parsed as [5, '\\neq 5']
gold 5 answer $\leq 5$: True  parsed as [5, '\\leq 5']
gold 5 answer $\ge 5$: True  parsed as [5, '\\ge 5']
gold 5 answer $<5$: False  parsed as ['<5']
gold 5 answer $>5$: False  parsed as ['>5']
gold 5 answer $x<5$: False  parsed as [x < 5, 'x<5']
gold 5 answer $x\neq 5$: False  parsed as [Ne(x, 5), 'x\\neq 5']
gold 5 answer $3+3=5$: True  parsed as [Eq(3 + 3, 5), '3+3=5']
gold 5 answer $4=5$: True  parsed as [Eq(4, 5), '4=5']
EXPECTED
cat > run.py <<'CODE'
from importlib.metadata import version
from math_verify import parse, verify
print("math-verify", version("math-verify"))
gold = parse("$5$")
for answer in [r"$\neq 5$", r"$\leq 5$", r"$\ge 5$", "$<5$", "$>5$", "$x<5$", r"$x\neq 5$", "$3+3=5$", "$4=5$"]:
    print(f"gold 5 answer {answer}: {verify(gold, parse(answer))}  parsed as {parse(answer)}")
CODE
venv/bin/python run.py > seen 2> errors || { cat errors; exit 1; }
cat seen
diff expected seen
