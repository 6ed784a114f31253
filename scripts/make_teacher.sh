#!/usr/bin/env bash
# Makes the expert teacher of data/expert again, and measures it: drafts, lessons, training, tests. An hour and a half on two cores
# with AVX-512; stopped anywhere, the same command goes on. nbs/53_expert.ipynb explains it.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh
.venv/bin/python -c 'from cgd.expert import make_expert, measure_expert; make_expert(); measure_expert()'
