#!/usr/bin/env bash
# Math-Shepherd labels a step of a solution as good if any of N completions from it reaches the right answer. In
# distilabel 1.5.3 a completion without a "Step 1:" or "The answer is:" (a refusal, a text cut off, fewer of them than
# N) erases what the completions before it have found: the same two completions count in one order, in the other the
# step stays without a sign. FormatPRM takes the last character of each step for its sign without looking, so such a
# step is a bad one for TRL, its full stop cut off. And an answer is compared as text: "4." is not "4".
# It matters for training on steps: right ones are taught as wrong, the more the larger N; the log tells it as info.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet distilabel==1.5.3 datasets==4.8.5
export HOME="$dir" HF_HUB_OFFLINE=1 HF_HOME="$dir/hf"
cat > expected <<'EXPECTED'
distilabel 1.5.3
N=2 right, wrong     -> 'Step 1: 1 + 1 = 2. +' -> 'Step 1: 1 + 1 = 2.' True
N=2 unparsed, right  -> 'Step 1: 1 + 1 = 2. +' -> 'Step 1: 1 + 1 = 2.' True
N=2 right, unparsed  -> 'Step 1: 1 + 1 = 2.' -> 'Step 1: 1 + 1 = 2' False
N=2 right            -> 'Step 1: 1 + 1 = 2.' -> 'Step 1: 1 + 1 = 2' False
N=1 right            -> 'Step 1: 1 + 1 = 2. +' -> 'Step 1: 1 + 1 = 2.' True
N=1 right, full stop -> 'Step 1: 1 + 1 = 2. -' -> 'Step 1: 1 + 1 = 2.' False
EXPECTED
cat > run.py <<'CODE'
from importlib.metadata import version
from distilabel.models.llms.base import LLM
from distilabel.steps.tasks import FormatPRM, MathShepherdCompleter

class Teacher(LLM):
    reply: str
    @property
    def model_name(self): return "teacher"
    def generate(self, inputs, num_generations=1, **options):
        return [dict(generations=[self.reply], statistics=dict(input_tokens=[1], output_tokens=[1])) for _ in inputs]

print("distilabel", version("distilabel"))
right, wrong = ("Step 2: Add 2 once more.\nThe answer is: " + answer for answer in ("4", "5"))
unparsed = "I cannot go on from here."
solution = ["Step 1: 1 + 1 = 2.", "Step 2: 2 + 2 = 4.", "The answer is: 4"]
for name, completions, n in [("right, wrong", [right, wrong], 2), ("unparsed, right", [unparsed, right], 2),
                             ("right, unparsed", [right, unparsed], 2), ("right", [right], 2), ("right", [right], 1),
                             ("right, full stop", [right + "."], 1)]:
    completer = MathShepherdCompleter(llm=Teacher(reply="\n---\n".join(completions)), N=n)
    formatter = FormatPRM(format="trl")
    completer.load(), formatter.load()
    row = dict(instruction="What is 1 + 1 + 2?", golden_solution=list(solution), solutions=[list(solution)])
    labelled, = next(completer.process([row]))
    steps = labelled["solutions"][0]
    prm, = next(formatter.process([dict(instruction=row["instruction"], solutions=list(steps))]))
    print(f"N={n} {name:16} -> {steps[0]!r} -> {prm['completions'][0]!r} {prm['labels'][0]}")
CODE
venv/bin/python run.py > seen 2> errors || { cat errors; exit 1; }
cat seen
diff expected seen
