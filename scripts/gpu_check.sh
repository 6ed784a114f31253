#!/usr/bin/env bash
# Proves in under ten minutes, on one CUDA card, what CI cannot: every notebook cell for CUDA, engines and training on the card, and what fast training
# is worth there (benchmarks/train.py). Writes data/results/gpu_check.json (card and versions) and data/results/gpu_train.csv.
#
#   scripts/gpu_check.sh                    # in an environment made by `make setup`
#   scripts/gpu_check.sh --wheels FOLDER    # on an image with torch and transformers and without a network: see scripts/gpu_env.sh
#   scripts/gpu_check.sh --dry-run          # the same steps on a CPU with a random two-layer model: the script works, the numbers mean nothing
#
# Without vLLM transformers generates, and without Unsloth plain TRL trains; which of them ran is in the versions.
# shellcheck source=scripts/gpu_env.sh
source "$(dirname "$0")/gpu_env.sh"
OUT=data/results
[ -z "$DRY" ] || OUT=$(mktemp -d)
step card and versions
# shellcheck disable=SC2086  # DRY is a flag or nothing
ABOUT=$("$PYTHON" scripts/gpu.py about $DRY)
echo "$ABOUT"
step notebook cells for CUDA
"$PYTHON" scripts/gpu.py cells ${DRY:+--list}
step engines and training
if [ -z "$DRY" ]; then "$PYTHON" -m pytest -q -p no:cacheprovider tests/test_engines.py tests/test_train.py
else "$PYTHON" -m pytest -q -p no:cacheprovider tests/test_engines.py -k 'own_seed'; fi
step what fast training is worth
if [ -z "$DRY" ]; then "$PYTHON" benchmarks/train.py --repeats 3 --device-rows 16 --out "$OUT/gpu_train.csv"
else "$PYTHON" benchmarks/train.py --tiny --repeats 1 --only random --out "$OUT/gpu_train.csv"; fi
echo "$ABOUT" > "$OUT/gpu_check.json"
step "all passed; results are in $OUT/gpu_check.json and $OUT/gpu_train.csv"
[ "$SECONDS" -lt 600 ] || { echo "gpu_check.sh: took $SECONDS s; wanted: under 600" >&2; exit 1; }
