#!/usr/bin/env bash
# A run on a Slurm cluster: draft (an array) -> teach (an array) -> merge -> train -> eval, each after the one before it.
#
#   scripts/slurm/submit.sh CONFIG NAME PARTS             # submits; run from the repository, on a file system that all nodes see
#   scripts/slurm/submit.sh --dry-run CONFIG NAME PARTS   # prints what would be submitted
#   scripts/slurm/submit.sh --here CONFIG NAME PARTS      # no Slurm: the same jobs on this machine, one after the other
#
# Each job asks for the GPUs that CONFIG uses in it (scripts/slurm/jobs.py); time limits stand in the .sbatch files; SBATCH_PARTITION, SBATCH_ACCOUNT and
# Slurm's other variables are honoured. A task of an array shares nothing with the others: it has its problems and its store, so a task
# that fails is submitted again alone, and the merge makes every row unique.
# Submitting the whole again goes on: what is in a store is not generated again, and a finished training is not repeated.
set -euo pipefail
cd "$(dirname "$0")/../.."
MODE=submit
case ${1:-} in --dry-run) MODE=print; shift;; --here) MODE=here; shift;; esac
[ $# -eq 3 ] || { echo "usage: scripts/slurm/submit.sh [--dry-run|--here] CONFIG NAME PARTS" >&2; exit 2; }
export CONFIG=$1 NAME=$2 PARTS=$3
[[ $PARTS =~ ^[1-9][0-9]*$ ]] || { echo "submit.sh: PARTS: expected a number of tasks, got '$PARTS'" >&2; exit 2; }
[ -f "$CONFIG" ] || { echo "submit.sh: $CONFIG: no such config file" >&2; exit 2; }
RUN_FOLDER=${RUN_FOLDER:-runs}
export RUN_FOLDER
PYTHON=${PYTHON:-.venv/bin/python}
LAST=$((PARTS - 1))

split() { "$PYTHON" scripts/slurm/jobs.py split "$CONFIG" "$PARTS" "$RUN_FOLDER/$NAME-parts"; }

job() {   # job NAME [DEPENDENCY] [sbatch options]: submits a job and prints its id
    local name=$1 after=${2:-} gpus=${GPUS[$1]:-0}; shift 2
    [ "$gpus" = 0 ] || set -- --gpus="$gpus" "$@"
    local command=(sbatch --parsable --export=ALL ${after:+--dependency="$after"} "$@" "scripts/slurm/$name.sbatch")
    if [ "$MODE" = print ]; then echo "${command[*]}" >&2; echo "<$name>"; else "${command[@]}"; fi
}

here() {  # here NAME [TASK]
    echo "== $1${2:+ $2}"
    SLURM_ARRAY_TASK_ID=${2:-} SLURM_SUBMIT_DIR=$PWD bash "scripts/slurm/$1.sbatch"
}

if [ "$MODE" = here ]; then
    split
    for stage in draft teach; do for task in $(seq 0 "$LAST"); do here "$stage" "$task"; done; done
    for stage in merge train eval; do here "$stage"; done
    exit
fi
said=$("$PYTHON" scripts/slurm/jobs.py gpus "$CONFIG")
declare -A GPUS
while read -r stage number; do GPUS[$stage]=$number; done <<< "$said"
if [ "$MODE" = print ]; then echo "$PYTHON scripts/slurm/jobs.py split $CONFIG $PARTS $RUN_FOLDER/$NAME-parts" >&2; else split; fi
draft=$(job draft '' --array="0-$LAST")
teach=$(job teach "aftercorr:$draft" --array="0-$LAST")   # a task may teach as soon as it has drafted
merge=$(job merge "afterok:$teach")
train=$(job train "afterok:$merge")
eval=$(job eval "afterok:$train")
echo "submitted: draft $draft, teach $teach, merge $merge, train $train, eval $eval"
