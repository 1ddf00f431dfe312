# Every target installs what it needs first, once: `make run` on a fresh clone is enough.
PYTHON ?= python3
ARGS ?=
RUN ?= apollo13

comma := ,
# cpu or gpu, never both: faiss-cpu and faiss-gpu share one import name. On a GPU: make run EXTRAS=gpu,dev
ON_GPU := $(filter gpu apollo,$(MAKECMDGOALS)) $(wildcard .venv/.installed-gpu-*)
EXTRAS ?= $(if $(strip $(ON_GPU)),gpu,cpu)$(comma)dev
BIN := .venv/bin
# Touched last, so a failed or interrupted install is tried again; newer pins install again.
STAMP := .venv/.installed-$(subst $(comma),-,$(EXTRAS))
CHECK := import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v < (3, 14) else \
	"Python %d.%d is too old or too new: this project needs 3.11, 3.12 or 3.13. Name one: make PYTHON=python3.12" % v)

.PHONY: help run sweep smollm gpu apollo test lab policy data lint clean

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*## /  make \1|/p' Makefile | column -t -s '|' 2>/dev/null || grep '##' Makefile

run: $(STAMP)  ## execute the notebooks, 03 in short; ARGS="02 -p steps=50", see ARGS=--help
	$(BIN)/python -m rezero run -f notebooks/quick.yaml $(ARGS)

sweep: $(STAMP)  ## notebook 03 in full: a map of when rewarding a retry matters, in two to three hours; ARGS="-p launcher=ray"
	$(BIN)/python -m rezero run 03 $(ARGS)

smollm: $(STAMP)  ## train SmolLM2-135M on the CPU: warm start, then GRPO; ARGS="-p steps=10"
	$(BIN)/python -m rezero.extras.smollm
	$(BIN)/python -m rezero run 02 -p profile=smollm $(ARGS)

gpu: $(STAMP)  ## on a GPU with 8 GB or more: train a 0.5B model, notebooks 02 and 04; ARGS="-p steps=20"
	$(BIN)/python -m rezero run 02 04 -p profile=gpu_small $(ARGS)

apollo: $(STAMP)  ## the same on the original's questions; CORPUS=folder with its chunks.csv and questions.jsonl
	$(BIN)/python -m rezero data cloze "$(CORPUS)" --out .cache/apollo13 -n 700 --dev .13 --test .32
	$(BIN)/python -m rezero run 02 04 -f notebooks/apollo13.yaml --run-id $(RUN) -p profile=gpu_small $(ARGS)
	$(BIN)/python tests/tools/published.py $(RUN)

test: $(STAMP)  ## run the tests; ARGS="-m slow", see tests/README.md
	$(BIN)/python -m pytest $(ARGS)

lab: $(STAMP)  ## open JupyterLab on notebooks/, with this environment's kernel
	JUPYTER_PREFER_ENV_PATH=1 $(BIN)/python -m jupyterlab --ServerApp.root_dir="$(CURDIR)" \
		--LabApp.default_url=/lab/tree/notebooks $(ARGS)

policy: $(STAMP)  ## train the laptop's starting policy again
	$(BIN)/python -m data.policy.train_policy $(ARGS)
	$(if $(ARGS),,$(BIN)/python -m data.policy.train_policy --start data/policy --pools 2 --lr 1.5e-3 --seed 100)

data: $(STAMP)  ## generate the shipped corpus again
	$(BIN)/python data/larkspur/generate.py $(ARGS)

lint: $(STAMP)  ## ruff, over modules, tests and notebooks
	$(BIN)/python -m ruff check $(ARGS) .

clean:  ## remove the environment and the caches; runs and data stay
	rm -rf .venv .cache .pytest_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): pyproject.toml
	@for stamp in .venv/.installed-*; do case "$$stamp" in "$@"|*"*") ;; *) \
		echo ".venv holds $${stamp#*installed-}, not $(EXTRAS); the two must not mix: make clean first"; exit 1;; esac; done
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { \
		command -v $(PYTHON) >/dev/null || { echo "no $(PYTHON) here: install Python 3.11, 3.12 or 3.13, or name" \
			"one: make PYTHON=/path/to/python3.12"; exit 1; }; \
		$(PYTHON) -c '$(CHECK)' && $(PYTHON) -m venv --clear .venv; }
	$(BIN)/python -m pip install --disable-pip-version-check -e ".[$(EXTRAS)]"
	@touch $@
