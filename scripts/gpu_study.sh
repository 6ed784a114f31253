#!/usr/bin/env bash
# The CPU study (configs/studies/cpu_study.yaml) on one CUDA card: ten times the problems, all test problems, five seeds of every method.
# Stopped anywhere, the same command goes on. Writes data/results/gpu_*.csv, with the card and the versions in every row.
#
#   scripts/gpu_study.sh                    # in an environment made by `make setup`
#   scripts/gpu_study.sh --wheels FOLDER    # on an image with torch and transformers and without a network: see scripts/gpu_env.sh
#   scripts/gpu_study.sh --dry-run          # one arm, one seed, four problems on a CPU: the script works, the numbers mean nothing
#   HOURS=2 scripts/gpu_study.sh            # time limit; no run starts that would exceed it
# shellcheck source=scripts/gpu_env.sh
source "$(dirname "$0")/gpu_env.sh"
STUDY=${STUDY:-configs/studies/cpu_study.yaml}
mkdir -p runs
SWEEP=runs/gpu_study${DRY:+_dry}.yaml
step card and versions
# shellcheck disable=SC2086  # DRY is a flag or nothing
"$PYTHON" scripts/gpu.py about $DRY
# shellcheck disable=SC2086
"$PYTHON" scripts/gpu.py sweep "$STUDY" "$SWEEP" $DRY
step "the study: $SWEEP"
cgd sweep "$SWEEP" ${HOURS:+--hours "$HOURS"}
step tables
FOLDER=$("$PYTHON" -c 'import sys, yaml; print(yaml.safe_load(open(sys.argv[1]))["results"])' "$SWEEP")
# shellcheck disable=SC2086
"$PYTHON" scripts/gpu.py tables "$FOLDER" "$([ -z "$DRY" ] && echo data/results/gpu || echo "$FOLDER/gpu")" $DRY
