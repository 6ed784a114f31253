#!/usr/bin/env bash
# verl pays right answers to GSM8K, and to the problems of DAPO, AIME and others, by rules of its own, the first ones
# strict or flexible. One expects a right number at the end of a sentence to be right, and flexible to be the milder. In
# 0.9.1 strings are compared, and the full stop or comma after a number is part of it: "So she pays 72." is 0 when
# flexible, and so is "1,000", whose comma strict removes; strict pays "#### 72" and not "#### 72.". DAPO's rules hold
# all that follows "Answer:" against the gold, with its bold marks, full stop and \( \); a box is looked for only where
# "Answer:" is nowhere, and in the last 100 characters. What stands before the last "=" is dropped: a solution too many
# is paid.
# It matters for reinforcement learning: 0 or -1 for right answers trains a model out of bold type and full stops, and a
# part of what it gains is that.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet --no-deps verl==0.9.1
cat > expected <<'EXPECTED'
verl 0.9.1
GSM8K                                strict  flexible
#### 72                              1.0     1.0
#### 72.                             0.0     0.0
#### $72                             0       1.0
#### 1,000                           1.0     0.0
So she pays 72                       0       1.0
So she pays 72.                      0       0.0
So it is 72, as expected.            0       0.0
DAPO                                 score   compared with 34
Answer: 34                            1.0    '34'
Answer: 34.                          -1.0    '34.'
Answer: \(34\)                       -1.0    '\\(34\\)'
**Answer:** 34                       -1.0    '**34'
**Answer:** \boxed{34}               -1.0    '**34'
\boxed{34}                            1.0    '34'
\boxed{34}, and 110 characters more  -1.0    '[INVALID]'
Answer: x = 12 or x = 34              1.0    '34'
EXPECTED
cat > run.py <<'CODE'
from importlib.metadata import version
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path

def load(name):                                              # its rules without the rest, which needs torch and ray
    folder = Path(find_spec("verl").submodule_search_locations[0], "utils", "reward_score")
    spec = spec_from_file_location(name, folder / f"{name}.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

gsm8k, dapo = load("gsm8k").compute_score, load("math_dapo").compute_score
print("verl", version("verl"))
print(f"{'GSM8K':36} strict  flexible")
for text in ["#### 72", "#### 72.", "#### $72", "#### 1,000", "So she pays 72", "So she pays 72.",
             "So it is 72, as expected."]:
    gold = "1000" if "1,000" in text else "72"
    print(f"{text:36} {gsm8k(text, gold)!s:7} {gsm8k(text, gold, method='flexible')}")
print(f"{'DAPO':36} score   compared with 34")
for text in ["Answer: 34", "Answer: 34.", r"Answer: \(34\)", "**Answer:** 34", r"**Answer:** \boxed{34}", r"\boxed{34}",
             r"\boxed{34}, and 110 characters more", "Answer: x = 12 or x = 34"]:
    result = dapo(text.replace(", and 110 characters more", ". " + "That is what was asked for." * 4 + " Q."), "34")
    print(f"{text:36} {result['score']:4}    {result['pred']!r}")
CODE
venv/bin/python run.py > seen 2> errors || { cat errors; exit 1; }
cat seen
diff expected seen
