# shellcheck shell=bash
# Read by every job. Settings come from the environment that submit.sh sets: CONFIG, NAME, PARTS, RUN_FOLDER, and CGD, the command.
set -euo pipefail
: "${CONFIG:?}" "${NAME:?}" "${PARTS:?}"
RUN_FOLDER=${RUN_FOLDER:-runs}
CGD=${CGD:-.venv/bin/cgd}
EXTRA=${EXTRA:-}                                # more flags for every cgd command, e.g. "--engine.dtype bfloat16"; what decides how many GPUs a job takes belongs in CONFIG
PARTS_FOLDER=$RUN_FOLDER/$NAME-parts            # problems and one store for each task of the arrays
export STORE=$RUN_FOLDER/$NAME/store.sqlite
export HF_HUB_OFFLINE=${HF_HUB_OFFLINE:-1}      # nodes have no network; fetch models before you submit
part() {                                        # a stage of this task's share of the problems, into a store of its own
    local task=${SLURM_ARRAY_TASK_ID:?}
    # shellcheck disable=SC2086  # EXTRA is a list of words
    "$CGD" "$1" "$CONFIG" --folder "$PARTS_FOLDER" --name "part-$task" --problems "$PARTS_FOLDER/problems-$task.jsonl" --n-problems None --validation None \
        --train.keep last --store None $EXTRA   # nothing is trained here, and its validation problems are among the problems
}
whole() {                                       # a stage of the whole run: what the parts have generated is in its store
    # shellcheck disable=SC2086
    "$CGD" "$1" "$CONFIG" --folder "$RUN_FOLDER" --name "$NAME" --store None $EXTRA   # its own store, which is $STORE: so it has a ledger, too
}
