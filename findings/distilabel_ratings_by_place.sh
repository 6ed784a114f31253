#!/usr/bin/env bash
# distilabel asks a judge to write its ratings under numbers ("[2] Score: 4", "Output for Text 2"), so one expects them
# to go to the answers with those numbers, and ratings that cannot be placed to be None. In 1.5.3 the numbers are not
# read. QualityScorer (ComplexityScorer too) goes by lines: a sentence before the list moves every score to the next
# answer and drops the last, and three answers still have three. UltraFeedback goes by empty lines: without one, all of
# it is the first answer's. FormatTextGenerationDPO then pairs the first answer with itself, whatever its rating; so it
# does for equal ratings, and 4.5 and 4.9 are equal, for both tasks cut decimals off.
# It matters for preference pairs and for filters by score: the wrong answer is preferred, or a text to itself.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet distilabel==1.5.3 datasets==4.8.5
export HOME="$dir" HF_HUB_OFFLINE=1 HF_HOME="$dir/hf"
cat > expected <<'EXPECTED'
distilabel 1.5.3
QualityScorer, three answers
  as asked         [1.0, 4.0, 2.0]
  after a sentence [None, 1.0, 4.0]
  in another order [4.0, 2.0, 1.0]
  with empty lines [1.0, None, 4.0]
UltraFeedback, the answers '5' and '4' to 2 + 2
  as asked         [1, 5] chosen '4' rejected '5'
  no empty line    [1] chosen '5' rejected '5'
  4.5 and 4.9      [4, 4] chosen '5' rejected '5'
EXPECTED
cat > run.py <<'CODE'
from importlib.metadata import version
from distilabel.models.llms.base import LLM
from distilabel.steps import FormatTextGenerationDPO
from distilabel.steps.tasks import QualityScorer, UltraFeedback

class Judge(LLM):
    reply: str
    @property
    def model_name(self): return "judge"
    def generate(self, inputs, num_generations=1, **options):
        return [dict(generations=[self.reply], statistics=dict(input_tokens=[1], output_tokens=[1])) for _ in inputs]

def judged(task, reply, **options):
    judge = task(llm=Judge(reply=reply), **options)
    judge.load()
    return next(judge.process([dict(instruction="What is 2 + 2?", responses=["a", "b", "c"], generations=["5", "4"])]))

print("distilabel", version("distilabel"))
print("QualityScorer, three answers")
scores = ["[1] Score: 1", "[2] Score: 4", "[3] Score: 2"]
for name, reply in [("as asked", "\n".join(scores)), ("after a sentence", "\n".join(["Here are my scores:", *scores])),
                    ("in another order", "\n".join([scores[1], scores[2], scores[0]])),
                    ("with empty lines", "\n\n".join(scores))]:
    print(f"  {name:16}", judged(QualityScorer, reply)[0]["scores"])
print("UltraFeedback, the answers '5' and '4' to 2 + 2")
pairs = FormatTextGenerationDPO()
pairs.load()
form = "#### Output for Text 1\nRating: {}\nRationale: {}\n\n#### Output for Text 2\nRating: {}\nRationale: {}"
asked = form.format(1, "Wrong.", 5, "Right.")
for name, reply in [("as asked", asked), ("no empty line", asked.replace("\n\n", "\n")),
                    ("4.5 and 4.9", form.format(4.5, "Short.", 4.9, "Right."))]:
    pair, = next(pairs.process(judged(UltraFeedback, reply, aspect="overall-rating")))
    chosen, rejected = (pair[name][-1]["content"] for name in ("chosen", "rejected"))
    print(f"  {name:16} {pair['ratings']} chosen {chosen!r} rejected {rejected!r}")
CODE
venv/bin/python run.py > seen 2> errors || { cat errors; exit 1; }
cat seen
diff expected seen
