#!/usr/bin/env bash
# ragas has BLEU of a response against its reference; one expects what sacrebleu says of the two texts. In 0.4.3 both
# are cut at ". ", and the reference's sentences are handed over where sacrebleu takes other references for the first
# sentence. So only the response's first sentence is looked at, and it may match any sentence of the reference: nonsense
# after it costs nothing, the rest may be missing without a brevity penalty, and a sentence of one's own at the start
# costs everything. The class of ragas.metrics and that of ragas.metrics.collections do the same.
# It matters for answers and critiques of more than one sentence: as a score or a reward it teaches one good opening.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet ragas==0.4.3 sacrebleu==2.6.0 langchain==0.3.27 langchain-community==0.3.31 \
  langchain-openai==0.3.35 instructor==1.12.0 datasets==4.8.5
export HOME="$dir" HF_HUB_OFFLINE=1 HF_HOME="$dir/hf" RAGAS_DO_NOT_TRACK=true
cat > expected <<'EXPECTED'
ragas 0.4.3 sacrebleu 2.6.0
                                    ragas  sacrebleu of the two texts
the reference                       1.00   1.00
its first sentence, then nonsense   1.00   0.47
its first sentence, nothing else    1.00   0.29
its last sentence, nothing else     1.00   0.37
a sentence more, then the reference 0.00   0.82
the older class says the same: True
EXPECTED
cat > run.py <<'CODE'
import asyncio, warnings
from importlib.metadata import version
warnings.simplefilter("ignore")
from ragas import SingleTurnSample
from ragas.metrics import BleuScore as Older
from ragas.metrics.collections import BleuScore
from sacrebleu import corpus_bleu

first, last = "The train covers 60 miles in the first hour", "So it needs another two hours for the rest."
reference = f"{first}. {last}"
responses = {
    "the reference": reference,
    "its first sentence, then nonsense": f"{first}. Bananas are rich in potassium and easy to peel.",
    "its first sentence, nothing else": first,
    "its last sentence, nothing else": last,
    "a sentence more, then the reference": f"Hello there friend. {reference}",
}
def same(response, score):
    sample = SingleTurnSample(reference=reference, response=response)
    return abs(asyncio.run(Older().single_turn_ascore(sample)) - score) < 1e-9

print("ragas", version("ragas"), "sacrebleu", version("sacrebleu"))
print(" " * 35, "ragas  sacrebleu of the two texts")
agree = []
for name, response in responses.items():
    score = asyncio.run(BleuScore().ascore(reference=reference, response=response)).value
    agree.append(same(response, score))
    print(f"{name:35} {score:.2f}   {corpus_bleu([response], [[reference]]).score / 100:.2f}")
print("the older class says the same:", all(agree))
CODE
venv/bin/python run.py > seen 2> errors || { cat errors; exit 1; }
cat seen
diff expected seen
