#!/usr/bin/env bash
# judges has graders on a scale of words, documented as terrible, bad, average, good, excellent, and a Jury that takes
# votes or averages. One expects "good" to be good and a jury of bad votes to be bad. In 0.1.1 a judgment's type is not
# known yet when its score is read, so that every score is read as a yes or no: "good" becomes True and "bad" False on
# the scale of words, too. The jury then takes words that it does not know for average, and True and False are two of
# them: it gives 3 of 5 for good, for bad, and for words that the library's own graders ask for (very poor,
# direct_refusal). Three times terrible is a 1, which the verdict makes True. And a vote of two judges who disagree is
# the first one's, by the default method, majority.
# It matters for filters by quality and for refusals: a jury says that all is average but the worst, which is True.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet judges==0.1.1 instructor==1.12.0 pydantic==2.14.4
export HOME="$dir"
cat > expected <<'EXPECTED'
judges 0.1.1
MagpieQueryQuality, three judges of one mind
  very poor   score 'very poor'  jury 3
  poor        score 'poor'       jury 3
  average     score 'average'    jury 3
  good        score True         jury 3
  excellent   score 'excellent'  jury 5
a judge on the documented scale
  terrible    score 'terrible'   jury True
  bad         score False        jury 3
  good        score True         jury 3
ORBenchRefusalDetection
  direct_answer   jury 3
  direct_refusal  jury 3
two votes, yes and no
  yes first  True
  no first   False
EXPECTED
cat > run.py <<'CODE'
from importlib.metadata import version
import json
from judges import Jury
from judges.base import BaseJudge, Judgment
from judges.graders.query_quality import MagpieQueryQuality
from judges.graders.refusal_detection import ORBenchRefusalDetection

def with_reply(kind, word, score_type="likert"):             # what a model wrote, read as instructor reads it
    class Judge(kind):
        def _judge(self, **prompts):
            reply = json.dumps(dict(score=word, reasoning="Because.", score_type=score_type))
            judgment = Judgment.model_validate_json(reply)
            return judgment.reasoning, judgment.score
    return Judge(model="none")

class Scale(BaseJudge):                                      # the README's way to a judge of one's own
    def judge(self, input, output=None, expected=None):
        reasoning, score = self._judge(user_prompt="Rate it.")
        return Judgment(reasoning=reasoning, score=score, score_type="likert")

class YesNo(BaseJudge):
    def judge(self, input, output=None, expected=None):
        reasoning, score = self._judge(user_prompt="Is it right?")
        return Judgment(reasoning=reasoning, score=score)

def verdict(*judges): return Jury(judges=list(judges)).vote(input="Why is the sky blue?", output="Because.")

print("judges", version("judges"))
print("MagpieQueryQuality, three judges of one mind")
for word in ("very poor", "poor", "average", "good", "excellent"):
    judge = with_reply(MagpieQueryQuality, word)
    print(f"  {word:11} score {judge.judge(input='Why?').score!r:12} jury {verdict(judge, judge, judge).score}")
print("a judge on the documented scale")
for word in ("terrible", "bad", "good"):
    judge = with_reply(Scale, word)
    print(f"  {word:11} score {judge.judge(input='Why?').score!r:12} jury {verdict(judge, judge, judge).score}")
print("ORBenchRefusalDetection")
for word in ("direct_answer", "direct_refusal"):
    print(f"  {word:15} jury {verdict(with_reply(ORBenchRefusalDetection, word)).score}")
print("two votes, yes and no")
yes, no = with_reply(YesNo, "yes", "boolean"), with_reply(YesNo, "no", "boolean")
print("  yes first ", verdict(yes, no).score)
print("  no first  ", verdict(no, yes).score)
CODE
venv/bin/python run.py > seen 2> errors || { cat errors; exit 1; }
cat seen
diff expected seen
