#!/usr/bin/env bash
# Self-consistency takes the answer that most samples agree on; a sample without one has no vote. In lm-eval 0.4.13
# (gsm8k_cot_self_consistency, maj@8 and maj@64) the regex filter first writes "[invalid]" where it finds nothing, and
# majority_vote counts that as an answer, so unparsed samples that disagree in everything win together. The vote is on
# raw text, before commas are normalised: 1,800 and 1800 split theirs.
# It matters where maj@k stands beside pass@1: three right samples, none wrong, lose to four cut off at the limit.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet lm-eval==0.4.13
export HF_HUB_OFFLINE=1 HF_HOME="$dir/hf"
cat > expected <<'EXPECTED'
lm-eval 0.4.13 pattern The answer is (\-?[0-9\.\,]*[0-9]+)
3 right, 4 without an answer: ['18', '18', '18', '[invalid]', '[invalid]', '[invalid]', '[invalid]']
  wins: '[invalid]'
4 times 1800, 3 times 20: ['1,800', '1800', '1,800', '1800', '20', '20', '20']
  wins: '20'
EXPECTED
cat > run.py <<'CODE'
from importlib.metadata import version
from importlib.resources import files
import re
from lm_eval.filters.extraction import RegexFilter
from lm_eval.filters.selection import MajorityVoteFilter

task = (files("lm_eval") / "tasks/gsm8k/gsm8k-cot-self-consistency.yaml").read_text()
pattern = re.search(r'regex_pattern: "(.*)"', task).group(1).replace("\\\\", "\\")
print("lm-eval", version("lm-eval"), "pattern", pattern)
right = ["The answer is 18."]
lost = ["So 18.", "Let me think: 9 + 9", "It is eighteen.", "I need more time"]
commas = [f"The answer is {n}" for n in ("1,800", "1800", "1,800", "1800", "20", "20", "20")]
for name, samples in [("3 right, 4 without an answer", right * 3 + lost), ("4 times 1800, 3 times 20", commas)]:
    votes = RegexFilter(pattern).apply([samples], [{}])
    print(f"{name}: {votes[0]}\n  wins: {list(MajorityVoteFilter().apply(votes, [{}]))[0][0]!r}")
CODE
venv/bin/python run.py > seen 2> errors || { cat errors; exit 1; }
cat seen
diff expected seen
