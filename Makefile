# On a fresh machine: `make demo`, `make run` and `make test`. Each sets up .venv first; `make help` lists the rest.
CONFIG ?= configs/cpu.yaml
BIN = .venv/bin

.PHONY: help setup demo run test test-all lab export readme record figures pictures lock clean
help:      ## this list
	@sed -n 's/^\([a-z-]*\): .*## /\1\t/p' Makefile | expand -t 12
setup:     ## make .venv (a GPU is detected); does nothing the second time
	@scripts/setup.sh
demo: setup ## a minute: 16 problems; what models wrote is replayed, grades, pairs and report are made now; opens the report
	@$(BIN)/python scripts/demo.py
run: setup ## the whole method on this machine: CONFIG=configs/cpu.yaml by default; resumes
	@$(BIN)/cgd run $(CONFIG)
test: setup ## notebooks in sync, clean and passing, then pytest
	@$(BIN)/python scripts/test.py
test-all: setup ## the same with the slow cells and the long tests
	@$(BIN)/python scripts/test.py --all
lab: setup ## JupyterLab on the notebooks
	@$(BIN)/jupyter lab nbs
export: setup ## notebooks -> cgd/*.py and README.md, notebooks cleaned
	@$(BIN)/nbdev_export && $(BIN)/nbdev_clean && $(BIN)/python scripts/readme.py
record: setup ## ask the real models again for the recordings that the teaching cells replay
	@$(BIN)/python scripts/record.py
figures: setup ## redraw figures/ from data/results/
	@$(BIN)/python scripts/figures.py
pictures: setup ## photograph the tour's trace and the report for the README (needs Chromium)
	@$(BIN)/python scripts/pictures.py
lock: setup ## write constraints.txt from what .venv holds now
	@$(BIN)/python scripts/lock.py
clean:     ## remove what can be made again (.venv and runs/ stay)
	@rm -rf build dist *.egg-info _docs _proc .pytest_cache .hypothesis
