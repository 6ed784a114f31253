#!/usr/bin/env bash
# IFEval's format checks (lm-eval 0.4.13) name bullets, highlights, paragraphs and titles, as Markdown has them. They
# are patterns that other marks match: a rule (---) and a line with a negative number are bullets, 2*3*4 is a
# highlighted section, ***bold*** parts two paragraphs, a C++ line with << and >> has a title, a[0] is a placeholder.
# Highlights in underscores and numbered or + lists don't count.
# It matters for models that write good Markdown: "exactly 2 bullets" fails for the rule below them.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet lm-eval==0.4.13 langdetect==1.0.9 immutabledict==4.3.1 nltk==3.10.4
export HF_HUB_OFFLINE=1 HF_HOME="$dir/hf"
cat > expected <<'EXPECTED'
lm-eval 0.4.13
number_bullet_lists [2]: '* one\n* two' -> True
number_bullet_lists [2]: '* one\n* two\n\n---\nDone.' -> False
number_bullet_lists [2]: '* one\n-5 is the least.' -> True
number_bullet_lists [2]: '+ one\n+ two' -> False
number_highlighted_sections [2]: '2*3*4 and 5*6*7' -> True
number_highlighted_sections [2]: '_one_ and _two_' -> False
number_paragraphs [3]: 'one ***bold*** word' -> True
title []: 'cout << a; cin >> b;' -> True
number_placeholders [2]: 'a[0] = b[1]' -> True
EXPECTED
cat > run.py <<'CODE'
from importlib.metadata import version
import os
os.environ["LOCAL_RANK"] = "1"  # rank 0 would fetch nltk's sentence data at import
from lm_eval.tasks.ifeval.instructions_registry import INSTRUCTION_DICT

print("lm-eval", version("lm-eval"))
form, content = "detectable_format:", "detectable_content:"
for name, text, kwargs in [(form + "number_bullet_lists", "* one\n* two", {"num_bullets": 2}),
                           (form + "number_bullet_lists", "* one\n* two\n\n---\nDone.", {"num_bullets": 2}),
                           (form + "number_bullet_lists", "* one\n-5 is the least.", {"num_bullets": 2}),
                           (form + "number_bullet_lists", "+ one\n+ two", {"num_bullets": 2}),
                           (form + "number_highlighted_sections", "2*3*4 and 5*6*7", {"num_highlights": 2}),
                           (form + "number_highlighted_sections", "_one_ and _two_", {"num_highlights": 2}),
                           ("length_constraints:number_paragraphs", "one ***bold*** word", {"num_paragraphs": 3}),
                           (form + "title", "cout << a; cin >> b;", {}),
                           (content + "number_placeholders", "a[0] = b[1]", {"num_placeholders": 2})]:
    checker = INSTRUCTION_DICT[name](name)
    checker.build_description(**kwargs)
    print(f"{name.split(':')[1]} {list(kwargs.values())}: {text!r} -> {bool(checker.check_following(text))}")
CODE
venv/bin/python run.py > seen 2> errors || { cat errors; exit 1; }
cat seen
diff expected seen
