# `make demo` and `make test` do all their own set-up in .venv. PYTHON picks the interpreter (3.11 or later).
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
MARL := .venv-marl/.installed

SECRETS := deploy/secrets

# some containers forbid it, and then every process compiles every module anew
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help demo secrets test test-deploy results bench bench-agents bench-faults bench-marl clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed; try make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test]'
	@touch $@

demo: $(STAMP)  ## 100 APs as 100 Ray actors, finding out whom to cooperate with (a few minutes)
	$(BIN)/cfmimo run hidden --seed 1 --set cooperation.serving=forecast

secrets:  ## before `docker compose up`: a Ray token, a Grafana password, and the user of the containers (yours; for root, 10001)
	@umask 077; mkdir -p $(SECRETS); for name in ray_token grafana_password; do \
	  test -s $(SECRETS)/$$name || head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n' > $(SECRETS)/$$name; done
	@mkdir -p runs
	@if [ "$$(id -u)" = 0 ]; then user=10001:10001; chown -R $$user $(SECRETS) runs; else user=$$(id -u):$$(id -g); fi; \
	  test -f .env && grep -v '^CFMIMO_USER=' .env > .env.new; echo "CFMIMO_USER=$$user" >> .env.new; mv .env.new .env
	@echo "made $(SECRETS)/ray_token and $(SECRETS)/grafana_password (user admin); next: docker compose up --build"

test: $(STAMP)  ## lint, types, fast tests, and tests with real Ray
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n auto --dist worksteal -m "not ray and not deploy"
	$(BIN)/python -m pytest -m ray

test-deploy: $(STAMP)  ## tests of images, compose, dashboards, alerts, Kubernetes and ray up
	$(BIN)/python -m pytest -m deploy

results: $(STAMP)  ## every printed result and figure of README and docs again (hours); ONLY=demo,loss makes some
	$(BIN)/python -m results --only "$(ONLY)"

bench: $(STAMP)  ## slots/s, messages/s and CPU time by part, local against Ray; what an AP costs; how physics and compare grow
	$(BIN)/python -m benchmarks.throughput
	$(BIN)/python -m benchmarks.shares
	$(BIN)/python -m benchmarks.against f531368
	$(BIN)/python -m benchmarks.startup
	$(BIN)/python -m benchmarks.groups
	$(BIN)/python -m benchmarks.physics
	$(BIN)/python -m benchmarks.comparison

bench-agents: $(STAMP)  ## what learning is worth over several networks, and each choice in how agents learn (two hours)
	$(BIN)/python -m benchmarks.learned hidden --set cooperation.serving=forecast
	$(BIN)/python -m benchmarks.ablation

bench-faults: $(STAMP)  ## kills, losses, dead servers, liars, damaged checkpoints and frames, random fault plans: what each costs
	$(BIN)/python -m benchmarks.faults
	$(BIN)/python -m benchmarks.liars
	$(BIN)/python -m benchmarks.checkpoints
	$(BIN)/python -m benchmarks.frames
	$(BIN)/python -m benchmarks.fuzz

$(MARL): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-marl
	.venv-marl/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[marl]'
	@touch $@

bench-marl: $(MARL)  ## the same agents in one process with TorchRL and with RLlib, against local and Ray (a quarter of an hour)
	.venv-marl/bin/python -m benchmarks.peers.marl

clean:  ## remove the virtual environments and caches, not the runs
	rm -rf .venv .venv-marl .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
