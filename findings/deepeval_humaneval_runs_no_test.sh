#!/usr/bin/env bash
# deepeval has HumanEval as a benchmark, of "functional correctness", with n samples a task and pass@k. A task's test is
# a function check(candidate), which HumanEval's own harness defines and calls; one expects the same. In 4.3.1 check is
# defined after the model's code and never called: whatever defines a function is right. Nothing can be imported, so
# a right answer that keeps a signature with List is wrong, with its import (ImportError) and without (NameError), and
# that is how many of the prompts begin. And a task counts as solved if any of its n samples was right, whatever k: the
# accuracy at k=1 is pass@n, with n 200 by default.
# It matters for comparing students and teachers by code: all that write functions look alike, and those that keep their
# types look worse.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet deepeval==4.3.1 datasets==4.8.5 pandas==2.3.3
export HOME="$dir" HF_HUB_OFFLINE=1 HF_HOME="$dir/hf" DEEPEVAL_TELEMETRY_OPT_OUT=YES
cat > expected <<'EXPECTED'
deepeval 4.3.1
four samples a task, k=1
  right           passed 4 of 4  pass@1 1.0   accuracy 1.0
  wrong           passed 4 of 4  pass@1 1.0   accuracy 1.0
  empty function  passed 4 of 4  pass@1 1.0   accuracy 1.0
  right, typed    passed 0 of 4  pass@1 0.0   accuracy 0.0
  with import     passed 0 of 4  pass@1 0.0   accuracy 0.0
  one parses      passed 1 of 4  pass@1 0.25  accuracy 1.0
the same test when it is called
  right           passes
  wrong           AssertionError
EXPECTED
cat > run.py <<'CODE'
from importlib.metadata import version
from datasets import Dataset, DatasetDict
from deepeval.benchmarks import HumanEval
from deepeval.benchmarks.tasks import HumanEvalTask
from deepeval.models import DeepEvalBaseLLM

task = HumanEvalTask.BELOW_ZERO                              # a row as in openai_humaneval, its words our own
test = "METADATA = {}\n\ndef check(candidate):\n    assert candidate([1, -2]) is True\n    assert not candidate([1])\n"
typed = "def below_zero(operations: List[int]) -> bool:\n"
body = "    return any(sum(operations[:i + 1]) < 0 for i in range(len(operations)))\n"
right, wrong = "def below_zero(operations):\n" + body, "def below_zero(operations):\n    return False\n"
row = dict(entry_point=task.value, prompt=f"from typing import List\n\n{typed}    '''Below 0 at times?'''\n", test=test)

class Model(DeepEvalBaseLLM):
    def __init__(self, samples): self.samples = samples
    def load_model(self): return self
    def get_model_name(self): return "model"
    def generate(self, prompt): return self.samples[0]
    async def a_generate(self, prompt): return self.samples[0]
    def generate_samples(self, prompt, n, temperature): return self.samples

print("deepeval", version("deepeval"))
print("four samples a task, k=1")
for name, samples in {"right": [right] * 4, "wrong": [wrong] * 4, "empty function": ["def below_zero(x): pass"] * 4,
                      "right, typed": [typed + body] * 4,
                      "with import": ["from typing import List\n" + typed + body] * 4,
                      "one parses": [right] + ["def below_zero(x) return False"] * 3}.items():
    benchmark = HumanEval(tasks=[task], n=4)
    benchmark.dataset = DatasetDict(test=Dataset.from_list([row]))
    accuracy = benchmark.evaluate(Model(samples), k=1).overall_accuracy
    score = benchmark.predictions["Score"][0]
    print(f"  {name:15} passed {benchmark.c[task.value]} of 4  pass@1 {score:<5} accuracy {accuracy}")

def called(code):
    space = {}
    exec(code + "\n" + test, space)                                        # the code above, nobody else's
    try: return space["check"](space[task.value]) or "passes"
    except AssertionError: return "AssertionError"
print("the same test when it is called")
for name, code in [("right", right), ("wrong", wrong)]: print(f"  {name:15} {called(code)}")
CODE
venv/bin/python run.py > all 2> errors || { cat errors; exit 1; }
grep -E '^(deepeval|four|  |the same)' all > seen
cat seen
diff expected seen
