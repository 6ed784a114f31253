#!/usr/bin/env bash
# A grader of numbers should tell 1.5e3 from 1.5. math-verify 0.9.0 extracts the mantissa alone from an answer in plain
# text, so the exponent never counts: 1.5e3 equals 1.5 and 1.5e-9, and does not equal 1500. Between dollar signs the
# letter e is Euler's number instead, so the same answer is a third value.
# It matters for science questions and for rewards: an answer off by any power of ten is right, the true one wrong.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet math-verify==0.9.0
cat > expected <<'EXPECTED'
math-verify 0.9.0
gold '1.5e3' answer '1500': False  parsed as 1.50000000000000
gold '1.5e3' answer '1.5': True  parsed as 1.50000000000000
gold '1.5e3' answer '1.5e-9': True  parsed as 1.50000000000000
gold '6.02e23' answer '6.02': True  parsed as 6.02000000000000
gold '$1e3$' answer '$3e$': True  parsed as 1*E*3
EXPECTED
cat > run.py <<'CODE'
from importlib.metadata import version
from math_verify import parse, verify
print("math-verify", version("math-verify"))
for gold, answer in [("1.5e3", "1500"), ("1.5e3", "1.5"), ("1.5e3", "1.5e-9"), ("6.02e23", "6.02"), ("$1e3$", "$3e$")]:
    print(f"gold {gold!r} answer {answer!r}: {verify(parse(gold), parse(answer))}  parsed as {parse(gold)[0]}")
CODE
venv/bin/python run.py > seen 2> errors || { cat errors; exit 1; }
cat seen
diff expected seen
