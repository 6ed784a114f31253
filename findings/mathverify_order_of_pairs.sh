#!/usr/bin/env bash
# verify's docstring says of the default strict mode that "sets are not comparable with tuples", so a list without
# order should never equal a pair with one. In math-verify 0.9.0 it does: the gold "1,2" (a set) accepts the pair
# (2,1), and the gold (2,1) accepts {2,1} but not {1,2}, as a set remembers how it was written. (1,2) is an open
# interval where (2,1) is a tuple: one form, two rules. The gold x=5,y=6 accepts "6,5"; the gold 1 accepts "1,1".
# It matters for systems of equations: the unknowns' values swapped are right.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet math-verify==0.9.0
cat > expected <<'EXPECTED'
math-verify 0.9.0
gold $1,2$ (FiniteSet) answer $(2,1)$ (Tuple): True
gold $(2,1)$ (Tuple) answer $1,2$ (FiniteSet): False
gold $(2,1)$ (Tuple) answer $\{2,1\}$ (FiniteSet): True
gold $(2,1)$ (Tuple) answer $\{1,2\}$ (FiniteSet): False
gold $(1,2)$ (Interval) answer $\{2,1\}$ (FiniteSet): False
gold $x=5,y=6$ (FiniteSet) answer $6,5$ (FiniteSet): True
gold $1$ (One) answer $1,1$ (FiniteSet): True
EXPECTED
cat > run.py <<'CODE'
from importlib.metadata import version
from math_verify import parse, verify
print("math-verify", version("math-verify"))
for gold, answer in [("$1,2$", "$(2,1)$"), ("$(2,1)$", "$1,2$"), ("$(2,1)$", r"$\{2,1\}$"), ("$(2,1)$", r"$\{1,2\}$"),
                     ("$(1,2)$", r"$\{2,1\}$"), ("$x=5,y=6$", "$6,5$"), ("$1$", "$1,1$")]:
    g, a = parse(gold), parse(answer)
    print(f"gold {gold} ({type(g[0]).__name__}) answer {answer} ({type(a[0]).__name__}): {verify(g, a)}")
CODE
venv/bin/python run.py > seen 2> errors || { cat errors; exit 1; }
cat seen
diff expected seen
