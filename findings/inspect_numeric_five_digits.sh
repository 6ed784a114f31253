#!/usr/bin/env bash
# match(numeric=True) of inspect_ai is how GSM8K and the like are scored there: the last number of an answer against the
# target's. inspect_ai 0.3.285 rounds both to five significant digits first, even with location="exact", so 123457 is
# right for 123456. And "number" means a word that is one: \boxed{42}, 42% and 42km are passed over, and the number
# before them is taken, so "5 of them, then \boxed{42}" is wrong for 42 and right for 5. The documentation speaks of
# stripped symbols and of %, not of digits.
# It matters for arithmetic with long numbers, where near misses are scored as right, and for answers in LaTeX.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet inspect_ai==0.3.285
export HOME="$dir" INSPECT_DISPLAY=none INSPECT_LOG_DIR="$dir/logs"
cat > expected <<'EXPECTED'
inspect_ai 0.3.285
target 123456  answer 'The product is 123457.'       scored C
target 7006652 answer 'So we get 7,006,653'          scored C
target 1234567 answer '1234568'                      scored C
target 42      answer 'The answer is 43.'            scored I
target 42      answer 'There are 5, so \\boxed{42}'  scored I
target 5       answer 'There are 5, so \\boxed{42}'  scored C
target 42      answer 'Of the 5, 42%'                scored I
target 5       answer 'After 5 hours, 42km.'         scored C
accuracy 0.625
with location="exact": target 1234567 answer '1234568' scored C
EXPECTED
cat > run.py <<'CODE'
from importlib.metadata import version
from inspect_ai import Task, eval
from inspect_ai.dataset import Sample
from inspect_ai.model import ModelOutput, ModelUsage, get_model
from inspect_ai.scorer import match

print("inspect_ai", version("inspect_ai"))
pairs = [("123456", "The product is 123457."), ("7006652", "So we get 7,006,653"), ("1234567", "1234568"),
         ("42", "The answer is 43."), ("42", r"There are 5, so \boxed{42}"), ("5", r"There are 5, so \boxed{42}"),
         ("42", "Of the 5, 42%"), ("5", "After 5 hours, 42km.")]

def scored(pairs, **options):
    samples = [Sample(id=i, input="How many?", target=target) for i, (target, _) in enumerate(pairs)]
    outputs = [ModelOutput.from_content("mockllm/model", answer) for _, answer in pairs]
    for output in outputs: output.usage = ModelUsage()                     # else a tokenizer is fetched to count
    model = get_model("mockllm/model", memoize=False, custom_outputs=outputs)
    log, = eval(Task(dataset=samples, scorer=match(numeric=True, **options)), model=model, max_samples=1)
    values = [next(iter(s.scores.values())).value for s in sorted(log.samples, key=lambda s: s.id)]
    return values, log.results.scores[0].metrics["accuracy"].value

values, accuracy = scored(pairs)
for (target, answer), value in zip(pairs, values): print(f"target {target:7} answer {answer!r:30} scored {value}")
print("accuracy", accuracy)
values, _ = scored(pairs[2:3], location="exact")
print(f'with location="exact": target {pairs[2][0]} answer {pairs[2][1]!r} scored {values[0]}')
CODE
venv/bin/python run.py > all 2> errors || { cat errors; exit 1; }
grep -E '^(inspect_ai|target|accuracy|with) ' all > seen
cat seen
diff expected seen
