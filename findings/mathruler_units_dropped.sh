#!/usr/bin/env bash
# mathruler grades answers in mathematics; verl's reward for geometry uses it. One expects 3 meters to be wrong where
# the key is 3 miles, and 2 million to be 2000000. In 0.1.0 names of units are cut out of both sides, wherever they
# stand and with an exponent after them: hours equal minutes, cm^2 equals cm^3, "Monday" is "Mon". A million becomes
# 10^6, which is then not worked out, for no answer to a whole number may need working out: 2^3 is not 8, yet 1e3 is
# 1000. Two numbers with a space between them are one: "1 2" is 12.
# It matters for rewards and for filters by answer: what tells two answers apart is often the unit alone.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet mathruler==0.1.0 sympy==1.14.0 pylatexenc==2.11 tqdm==4.70.1
cat > expected <<'EXPECTED'
mathruler 0.1.0
other answers
  3 meters      for 3 miles      True
  5 hours       for 5 minutes    True
  5 cm^2        for 5 cm^3       True
  \text{Monday} for \text{Mon}   True
  1 2           for 12           True
equal answers
  2 million     for 2000000      False
  2^3           for 8            False
  1e3           for 1000         True
  10^{2}        for 100          False
  0.75          for \frac{3}{4}  True
EXPECTED
cat > run.py <<'CODE'
from importlib.metadata import version
from mathruler.grader import grade_answer

print("mathruler", version("mathruler"))
for right, pairs in [
    ("other answers", [("3 meters", "3 miles"), ("5 hours", "5 minutes"), ("5 cm^2", "5 cm^3"),
                       (r"\text{Monday}", r"\text{Mon}"), ("1 2", "12")]),
    ("equal answers", [("2 million", "2000000"), ("2^3", "8"), ("1e3", "1000"), (r"10^{2}", "100"),
                       ("0.75", r"\frac{3}{4}")]),
]:
    print(right)
    for given, key in pairs: print(f"  {given:13} for {key:12} {grade_answer(given, key)}")
CODE
venv/bin/python run.py > seen 2> errors || { cat errors; exit 1; }
cat seen
diff expected seen
