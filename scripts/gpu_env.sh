# shellcheck shell=bash disable=SC2034
# Read by gpu_check.sh and gpu_study.sh: options, and a Python that can import what the checkout needs.
# A cgd environment is used as it is. On an image that has torch and transformers but no network, --wheels FOLDER names wheels carried there; they
# are unpacked into a folder of their own, and the image stays as it is. What such an image lacks is listed in scripts/gpu_wheels.txt; elsewhere, with a network:
#   pip download --no-deps --only-binary=:all: -d wheels -r scripts/gpu_wheels.txt
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
DRY='' WHEELS='' SITE=${SITE:-}
while [ $# -gt 0 ]; do
    case $1 in
        --dry-run) DRY=--dry-run;;
        --wheels) WHEELS=${2:?--wheels wants a folder}; shift;;
        *) echo "usage: $0 [--dry-run] [--wheels FOLDER]" >&2; exit 2;;
    esac
    shift
done
if [ -z "${PYTHON:-}" ]; then if [ -x .venv/bin/python ]; then PYTHON=.venv/bin/python; else PYTHON=python3; fi; fi
if [ -n "$WHEELS" ]; then
    [ -n "$(find "$WHEELS" -maxdepth 1 -name '*.whl' -print -quit)" ] || { echo "$0: $WHEELS: no wheels in it" >&2; exit 2; }
    SITE=$(mktemp -d)
    "$PYTHON" -m pip install --quiet --no-index --no-deps --target "$SITE" "$WHEELS"/*.whl
fi
export PYTHONPATH=$PWD${SITE:+:$SITE}${PYTHONPATH:+:$PYTHONPATH} HF_HUB_OFFLINE=1 PYTHONUNBUFFERED=1
"$PYTHON" -c 'import importlib.metadata as m; m.version("cgd")' 2>/dev/null || "$PYTHON" setup.py --quiet egg_info   # `cgd` asks for its version
cgd() { "$PYTHON" -c 'import sys; from cgd.cli import main; sys.exit(main())' "$@"; }
step() { printf '\n== %s (%ss)\n' "$*" "$SECONDS"; }
