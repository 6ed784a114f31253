#!/usr/bin/env bash
# sin 30 degrees is 1/2. math-verify 0.9.0 drops the degree sign as a unit before it parses, so it computes the sine of
# 30 radians (-0.988): \sin 30^\circ does not equal 1/2, and it does equal \sin 30. A bare 90^\circ is 90, so it cannot
# equal \frac{\pi}{2} either.
# It matters for geometry: a model that leaves its exact answer as \tan 60^\circ is marked wrong, and one that forgot
# the degree sign is marked right.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet math-verify==0.9.0
cat > expected <<'EXPECTED'
math-verify 0.9.0
gold $\frac{1}{2}$ answer $\sin 30^\circ$: False  answer parsed as sin(30)
gold $\sqrt{3}$ answer $\tan 60^{\circ}$: False  answer parsed as tan(60)
gold $\sin 30^\circ$ answer $\sin 30$: True  answer parsed as sin(30)
gold $\frac{\pi}{2}$ answer $90^\circ$: False  answer parsed as 90
gold $90$ answer $90^\circ$: True  answer parsed as 90
EXPECTED
cat > run.py <<'CODE'
from importlib.metadata import version
from math_verify import parse, verify
print("math-verify", version("math-verify"))
rows = [(r"$\frac{1}{2}$", r"$\sin 30^\circ$"), (r"$\sqrt{3}$", r"$\tan 60^{\circ}$"),
        (r"$\sin 30^\circ$", r"$\sin 30$"), (r"$\frac{\pi}{2}$", r"$90^\circ$"), ("$90$", r"$90^\circ$")]
for gold, answer in rows:
    print(f"gold {gold} answer {answer}: {verify(parse(gold), parse(answer))}  answer parsed as {parse(answer)[0]}")
CODE
venv/bin/python run.py > seen 2> errors || { cat errors; exit 1; }
cat seen
diff expected seen
