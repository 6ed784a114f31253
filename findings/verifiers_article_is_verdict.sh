#!/usr/bin/env bash
# The reference judge of verifiers asks for "yes" or "no", or for two labels of one's own; its source gives "A" and "B"
# as the example. A judge that adds a reason to its verdict is expected to have the verdict read, or none, which raises.
# In 0.4.0 the last label anywhere in the reply counts, upper or lower case: "B. The response gives a different number."
# is A, for the article "a", so a wrong answer earns 1.0; "Yes. There is no difference." is "no". After "Answer:" or
# "Verdict:" at the start of a line the first one counts, articles too, but "**Verdict:**" isn't such a start. Nothing
# raises, nor does "not correct", which is "correct".
# It matters for rewards and evaluation by a judge: the short sentence that many models add flips the verdict, and the
# article flips it one way only, towards right.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet verifiers==0.4.0 math-verify==0.9.0 renderers==0.1.12 transformers==5.24.0
export HOME="$dir" HF_HUB_OFFLINE=1
cat > expected <<'EXPECTED'
verifiers 0.4.0
labels yes, no (the default)
  1.0 'Yes.'
  0.0 'Yes. There is no difference in substance.'
  0.0 'No. The response is 5, the reference is 7.'
  1.0 'No. It is 5 and not 7; yes, both are odd.'
  0.0 'Verdict: no. Seven would be a yes.'
  1.0 '**Verdict:** no. Seven would be a yes.'
labels A, B
  0.0 'B'
  1.0 'B. The response gives a different number.'
  1.0 'B: it has a sign error.'
  0.0 'B: it has the wrong sign.'
  0.0 'Answer: B. It has a sign error.'
  1.0 'Answer: it has a sign error, so B.'
labels correct, incorrect
  1.0 'The response is not correct.'
EXPECTED
cat > run.py <<'CODE'
from importlib.metadata import version
from verifiers.v1.judge import JudgeResponse
from verifiers.v1.judges import ReferenceJudge, ReferenceJudgeConfig

def show(name, judge, *replies):
    print("labels", name)
    for reply in replies: print(" ", judge.parse(JudgeResponse[float](text=reply)), repr(reply))

print("verifiers", version("verifiers"))
show("yes, no (the default)", ReferenceJudge(), "Yes.", "Yes. There is no difference in substance.",
     "No. The response is 5, the reference is 7.", "No. It is 5 and not 7; yes, both are odd.",
     "Verdict: no. Seven would be a yes.", "**Verdict:** no. Seven would be a yes.")
show("A, B", ReferenceJudge(ReferenceJudgeConfig(choices=("A", "B"))), "B", "B. The response gives a different number.",
     "B: it has a sign error.", "B: it has the wrong sign.", "Answer: B. It has a sign error.",
     "Answer: it has a sign error, so B.")
show("correct, incorrect", ReferenceJudge(ReferenceJudgeConfig(choices=("correct", "incorrect"))),
     "The response is not correct.")
CODE
venv/bin/python run.py > seen 2> errors || { cat errors; exit 1; }
cat seen
diff expected seen
