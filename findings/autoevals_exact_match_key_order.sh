#!/usr/bin/env bash
# autoevals' ExactMatch is documented to compare JSON by content: an object and a JSON text with its keys in another
# order score 1.0 in its example, JSON texts are normalized. In 0.4.1 that example scores 0, and so do two dicts that
# Python calls equal: objects are written out in the order they have, and the texts are compared. Two texts are not read
# as JSON at all, so that a space is the difference. JSONDiff minds neither, but takes a missing key for a null.
# NumericDiff's example (105 for 100 is 0.95) is 0.976, as it divides by the sum of both: an answer ten times too large
# or too small earns 0.18, and one that misses 0 by a millionth earns nothing.
# It matters for tool calls and structured answers, whose keys a model writes in its own order: equal answers fail; and
# as a reward NumericDiff pays for a wrong order of magnitude.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet autoevals==0.4.1 chevron==0.14.0 jsonschema==4.26.0 polyleven==0.12.0 pyyaml==6.0.4
export HOME="$dir"
cat > expected <<'EXPECTED'
autoevals 0.4.1
output                      expected                    ==     ExactMatch  JSONDiff
{'name': 'John', 'age': 30} {"age": 30, "name": "John"} False  0           1.0
{'x': 1, 'y': 2}            {'y': 2, 'x': 1}            True   0           1.0
{"x": 1, "y": 2}            {"y": 2, "x": 1}            False  0           1.0
{"x": 1}                    {"x":1}                     False  0           1.0
{'x': 1}                    {"x":1}                     False  1           1.0
{'x': 1}                    {'x': 1.0}                  True   0           1.0
{'x': 1}                    {'x': 1, 'y': None}         False  0           1.0
NumericDiff, 105 for 100: 0.976
NumericDiff, 50 for 5: 0.182
NumericDiff, 5 for 50: 0.182
NumericDiff, 1e-06 for 0: 0.000
NumericDiff, -5 for 5: 0.000
EXPECTED
cat > run.py <<'CODE'
from importlib.metadata import version
from autoevals import ExactMatch, JSONDiff, NumericDiff

print("autoevals", version("autoevals"))
print(f"{'output':27} {'expected':27} ==     ExactMatch  JSONDiff")
for output, expected in [
    ({"name": "John", "age": 30}, '{"age": 30, "name": "John"}'),                              # its documentation's
    ({"x": 1, "y": 2}, {"y": 2, "x": 1}), ('{"x": 1, "y": 2}', '{"y": 2, "x": 1}'), ('{"x": 1}', '{"x":1}'),
    ({"x": 1}, '{"x":1}'), ({"x": 1}, {"x": 1.0}), ({"x": 1}, {"x": 1, "y": None}),
]:
    exact, diff = (scorer().eval(output=output, expected=expected).score for scorer in (ExactMatch, JSONDiff))
    print(f"{output!s:27} {expected!s:27} {output == expected!s:6} {exact}           {diff}")
for output, expected in [(105, 100), (50, 5), (5, 50), (0.000001, 0), (-5, 5)]:
    print(f"NumericDiff, {output} for {expected}: {NumericDiff().eval(output=output, expected=expected).score:.3f}")
CODE
venv/bin/python run.py > seen 2> errors || { cat errors; exit 1; }
cat seen
diff expected seen
