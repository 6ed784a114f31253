#!/usr/bin/env bash
# prometheus-eval warns when absolute_grade has no reference_answers, and asks for one "for best results". In 0.1.20
# giving one only ends the warning: PrometheusEval(model) has a prompt without a place for it, so the judge is asked the
# same, word for word, whether the reference is right, wrong or missing. With ABSOLUTE_PROMPT as template a row without
# one shows the judge "None" as the answer that earns 5, and single_absolute_grade doesn't even warn. What is called
# the feedback is all the judge wrote, [RESULT] and score with it; the README's example shows it without.
# It matters for answers with a key, which the judge never sees, and for critiques taken from the feedback: they tell a
# student its score.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet prometheus-eval==0.1.20 litellm==1.110.2 fastchat==0.1.0
export HOME="$dir" LITELLM_LOCAL_MODEL_COST_MAP=True
cat > expected <<'EXPECTED'
prometheus-eval 0.1.20
default template
  reference '42': not in the prompt, warnings 0
  reference '17': not in the prompt, warnings 0
  reference None: not in the prompt, warnings 1
  prompts: 1
ABSOLUTE_PROMPT
  reference '42': ###Reference Answer (Score 5): 42, warnings 0
  reference None: ###Reference Answer (Score 5): None, warnings 1
single_absolute_grade, ABSOLUTE_PROMPT, no reference: ###Reference Answer (Score 5): None, warnings 0
feedback 'Six times seven is not 41. [RESULT] 1' score 1
EXPECTED
cat > run.py <<'CODE'
from importlib.metadata import version
import warnings
from prometheus_eval import ABSOLUTE_PROMPT, PrometheusEval
from prometheus_eval.mock import MockLLM

class Judge(MockLLM):
    def completions(self, prompts, **options):
        self.prompt = prompts[0][-1]["content"]
        return ["Six times seven is not 41. [RESULT] 1" for _ in prompts]

def reference(prompt):
    lines = prompt.split("\n")
    return next((f"{a} {b}" for a, b in zip(lines, lines[1:]) if a.startswith("###Reference")), "not in the prompt")

def graded(call, **arguments):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = call(**arguments)
    return result, sum("Reference answer" in str(w.message) for w in caught)

print("prometheus-eval", version("prometheus-eval"))
batch = dict(instructions=["What is 6 times 7?"], responses=["41"], rubric="Is the answer right?")
for name, options, references in [("default template", {}, (["42"], ["17"], None)),
                                  ("ABSOLUTE_PROMPT", dict(absolute_grade_template=ABSOLUTE_PROMPT), (["42"], None))]:
    print(name)
    prompts = set()
    for answers in references:
        judge = PrometheusEval(Judge("absolute"), **options)
        _, warned = graded(judge.absolute_grade, reference_answers=answers, **batch)
        prompts.add(judge.model.prompt)
        print(f"  reference {answers and answers[0]!r}: {reference(judge.model.prompt)}, warnings {warned}")
    if not options: print("  prompts:", len(prompts))
judge = PrometheusEval(Judge("absolute"), absolute_grade_template=ABSOLUTE_PROMPT)
(feedback, score), warned = graded(judge.single_absolute_grade, instruction="What is 6 times 7?", response="41",
                                   rubric="Is the answer right?")
print("single_absolute_grade, ABSOLUTE_PROMPT, no reference:", reference(judge.model.prompt) + ",", "warnings", warned)
print(f"feedback {feedback!r} score {score}")
CODE
venv/bin/python run.py > all 2> errors || { cat errors; exit 1; }
grep -E '^(prometheus|default|ABSOLUTE|single|feedback|  reference|  prompts)' all > seen
cat seen
diff expected seen
