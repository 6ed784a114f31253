#!/usr/bin/env bash
# ragas' ToolCallAccuracy compares an agent's tool calls with the right ones. Its docstring promises a proportional
# penalty for calls too few or too many, and with strict_order=False calls in any order. In 0.4.3 any other number of
# calls is 0, for the lists of names must be equal, while a warning says that the first calls will be compared. Without
# strict order the calls are sorted by their arguments and paired by place, so that one wrong argument can move the
# others: one right call of two is 0. Arguments that nobody asked for cost nothing. Values are compared as Python writes
# them: "5" is 5 and "None" is None, but 5.0 is not 5, and an object's keys must stand in one order. ToolCallF1 counts
# sets: one payment made three times is perfect.
# It matters for rewards of agents: half right pays as little as wrong, and a call with more in it than was asked pays.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet ragas==0.4.3 langchain==0.3.27 langchain-community==0.3.31 langchain-openai==0.3.35 \
  instructor==1.12.0 datasets==4.8.5
export HOME="$dir" HF_HUB_OFFLINE=1 HF_HOME="$dir/hf" RAGAS_DO_NOT_TRACK=true
cat > expected <<'EXPECTED'
ragas 0.4.3
                              accuracy  in any order  F1
as asked                      1.0       1.0           1.0
one of two                    0.0       0.0           0.6667
two and one more              0.0       0.0           0.8
the same three times for one  0.0       0.0           1.0
Oslo for the first of two     0.5       0.5           0.5
Zurich for the first of two   0.5       0.0           0.5
pays daily, asked for once    1.0       1.0           0.0
"5" for 5                     1.0       1.0           0.0
"None" for None               1.0       1.0           0.0
5.0 for 5                     0.0       0.0           1.0
keys in another order         0.0       0.0           1.0
EXPECTED
cat > run.py <<'CODE'
import asyncio, warnings
from importlib.metadata import version
warnings.simplefilter("ignore")
from ragas.messages import AIMessage, HumanMessage, ToolCall
from ragas.metrics.collections import ToolCallAccuracy, ToolCallF1

def call(name, **arguments): return ToolCall(name=name, args=arguments)
def weather(*cities): return [call("weather", city=city) for city in cities]
def pay(**more): return [call("pay", to="Ann", amount=5, **more)]
def amount(value): return [call("set", amount=value)]

print("ragas", version("ragas"))
print(f"{'':29} accuracy  in any order  F1")
for name, made, right in [
    ("as asked", weather("Paris", "Rome"), weather("Paris", "Rome")),
    ("one of two", weather("Paris"), weather("Paris", "Rome")),
    ("two and one more", weather("Paris", "Rome", "Oslo"), weather("Paris", "Rome")),
    ("the same three times for one", pay() * 3, pay()),
    ("Oslo for the first of two", weather("Oslo", "Rome"), weather("Paris", "Rome")),
    ("Zurich for the first of two", weather("Zurich", "Rome"), weather("Paris", "Rome")),
    ("pays daily, asked for once", pay(repeat="daily"), pay()),
    ('"5" for 5', amount("5"), amount(5)), ('"None" for None', amount("None"), amount(None)),
    ("5.0 for 5", amount(5.0), amount(5)),
    ("keys in another order", amount(dict(low=1, high=2)), amount(dict(high=2, low=1))),
]:
    talk = dict(user_input=[HumanMessage(content="Please."), AIMessage(content="", tool_calls=made)],
                reference_tool_calls=right)
    strict, free, f1 = (asyncio.run(metric.ascore(**talk)).value for metric in
                        (ToolCallAccuracy(), ToolCallAccuracy(strict_order=False), ToolCallF1()))
    print(f"{name:29} {strict}       {free}           {f1}")
CODE
venv/bin/python run.py > seen 2> errors || { cat errors; exit 1; }
cat seen
diff expected seen
