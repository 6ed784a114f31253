#!/usr/bin/env bash
# \bmod is LaTeX's own command for the binary remainder, so 17 \bmod 5 should be 2, as 17 \mod 5 is. math-verify 0.9.0
# reads \mod, but of \bmod it keeps only what follows, 5. It takes \pmod for \pm: 2 \pmod 5 is 2 plus or minus 5od.
# It matters for number theory: a gold of 17 \bmod 5 accepts 5 and refuses 2, and 2 \pmod 5, the usual way to state a
# residue, is never 2.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet math-verify==0.9.0
cat > expected <<'EXPECTED'
math-verify 0.9.0
gold $17 \mod 5$: accepts 2 True, accepts 5 False, parsed as Mod(17, 5)
gold $17 \bmod 5$: accepts 2 False, accepts 5 True, parsed as 5
gold $2 \pmod 5$: accepts 2 False, accepts 5 False, parsed as {2 - 5*d*o, o*d*5 + 2}
gold $2 \pmod{5}$: accepts 2 False, accepts 5 False, parsed as {2 - 5*d*o, o*d*5 + 2}
EXPECTED
cat > run.py <<'CODE'
from importlib.metadata import version
from math_verify import parse, verify
print("math-verify", version("math-verify"))
for gold in [r"$17 \mod 5$", r"$17 \bmod 5$", r"$2 \pmod 5$", r"$2 \pmod{5}$"]:
    g = parse(gold)
    two, five = verify(g, parse("$2$")), verify(g, parse("$5$"))
    print(f"gold {gold}: accepts 2 {two}, accepts 5 {five}, parsed as {g[0]}")
CODE
venv/bin/python run.py > seen 2> errors || { cat errors; exit 1; }
cat seen
diff expected seen
