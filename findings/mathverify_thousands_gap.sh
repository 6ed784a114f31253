#!/usr/bin/env bash
# A thin space between groups of digits (1\,234) is the standard way to set thousands in LaTeX and SI. One expects
# 1234, or a refusal. math-verify 0.9.0 reads a mixed number without its fraction, 1 + 234 = 235, and accepts "235".
# The comma forms 1,234 and 1{,}234 are read as 1234.
# It matters for gold answers taken from textbooks: each right answer scores 0, and a wrong one scores 1.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet math-verify==0.9.0
cat > expected <<'EXPECTED'
math-verify 0.9.0
$1,234$ is 1234 and accepts ['$1234$']
$1{,}234$ is 1234 and accepts ['$1234$']
$1\,234$ is 235 and accepts ['$235$']
$12\,500$ is 512 and accepts ['$512$']
EXPECTED
cat > run.py <<'CODE'
from importlib.metadata import version
from math_verify import parse, verify
print("math-verify", version("math-verify"))
for gold in [r"$1,234$", r"$1{,}234$", r"$1\,234$", r"$12\,500$"]:
    scores = {a: verify(parse(gold), parse(a)) for a in ("$1234$", "$235$", "$12500$", "$512$")}
    print(gold, "is", parse(gold)[0], "and accepts", [a for a, ok in scores.items() if ok])
CODE
venv/bin/python run.py > seen 2> errors || { cat errors; exit 1; }
cat seen
diff expected seen
