#!/usr/bin/env bash
# A recurring decimal is exact: 0.\overline{3} is 1/3 and 1.\overline{6} is 5/3. math-verify 0.9.0 drops the bar with
# the digits under it, without an error, and is left with 0 and 1 (0.\dot{3} likewise); after other digits,
# 0.1\overline{6}, the bar becomes a factor: 0.1 times a symbol "bar{6}". So the gold answer 0.\overline{3} refuses 1/3
# and accepts 0.
# It matters for number theory and fraction problems, whose golds are written so: the error is silent and one-sided.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet math-verify==0.9.0
cat > expected <<'EXPECTED'
math-verify 0.9.0
$0.\overline{3}$ is 0 | right $1/3$ False | wrong $0$ True
$1.\overline{6}$ is 1 | right $5/3$ False | wrong $1$ True
$0.1\overline{6}$ is 0.1*bar{6} | right $1/6$ False | wrong $0.1$ False
$0.\dot{3}$ is 0 | right $1/3$ False | wrong $0$ True
EXPECTED
cat > run.py <<'CODE'
from importlib.metadata import version
from math_verify import parse, verify
print("math-verify", version("math-verify"))
rows = [(r"$0.\overline{3}$", "$1/3$", "$0$"), (r"$1.\overline{6}$", "$5/3$", "$1$"),
        (r"$0.1\overline{6}$", "$1/6$", "$0.1$"), (r"$0.\dot{3}$", "$1/3$", "$0$")]
for gold, right, wrong in rows:
    g = parse(gold)
    print(gold, "is", g[0], "| right", right, verify(g, parse(right)), "| wrong", wrong, verify(g, parse(wrong)))
CODE
venv/bin/python run.py > seen 2> errors || { cat errors; exit 1; }
cat seen
diff expected seen
