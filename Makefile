# Everything a contributor needs. `make` alone prints the list below.

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PEERS := benchmarks/.peers

# Tests and benchmarks start thousands of processes: each would compile all modules anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help

.PHONY: help
help: ## List these targets
	@grep -hE '^[a-z][a-z-]*:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | \
		while IFS="$$(printf '\t')" read -r name text; do printf '  make %-13s %s\n' "$$name" "$$text"; done

.PHONY: demo
demo: $(READY) ## Run the demonstration (SEED=n repeats a run)
	@$(BIN)/writ demo $(if $(SEED),--seed $(SEED))

.PHONY: example
example: $(READY) ## Take four releases of an invoice reader through evaluation and gate (SEED=n: other invoices)
	@$(BIN)/python -m examples.invoices.run $(if $(SEED),--seed $(SEED)) $(ARGS)

.PHONY: test
test: $(READY) ## Run every test (ARGS='-k lease' narrows the run)
	@$(BIN)/pytest -n 2 --dist worksteal $(ARGS)

.PHONY: simulate
simulate: $(READY) ## Run 10,000 simulated histories (N=1000 for fewer, SEED=n for one at length)
	@$(BIN)/python -m tests.simulation.simulate $(if $(SEED),--seed $(SEED)) $(if $(N),--count $(N))

.PHONY: retention-proof
retention-proof: $(READY) ## Archive and trim under load with 20 kills, and compare all answers (ARGS='--kills 50')
	@$(BIN)/python -m tests.acceptance.retention $(ARGS)

.PHONY: upgrade
upgrade: $(READY) ## Upgrade nodes under load, one at a time, from an older Writ (ARGS='--old PATH/TO/writ')
	@$(BIN)/python -m tests.acceptance.upgrade $(ARGS)

.PHONY: grow-proof
grow-proof: $(READY) ## Partitions 2 -> 4 under load, with leaders killed meanwhile (ARGS='--kills 50 --seed 3')
	@$(BIN)/python -m tests.acceptance.growing $(ARGS)

.PHONY: chaos
chaos: $(READY) ## Do all that goes wrong to a system under load, and check its history (FULL=1: 100 kills of each part)
	@$(BIN)/python -m tests.acceptance.chaos_run $(if $(FULL),--kills 100 --others 20 --minutes 0 --jobs 100000) $(ARGS)

.PHONY: crash-proof
crash-proof: $(READY) ## Kill the engine 200 times at each await that matters, and look for a job lost or doubled (N=1000)
	@WRIT_CRASHES=$(or $(N),200) $(BIN)/pytest -n0 -q -o timeout=1200 tests/acceptance/test_planted_crashes.py

.PHONY: power-proof
power-proof: $(READY) ## Cut the power of a broker's disk 20 times, and once as a control (root, loop devices)
	@WRIT_POWER_LOSSES=$(or $(N),20) $(BIN)/pytest -n0 -q -rs -o timeout=600 tests/acceptance/test_power.py

.PHONY: forensics
forensics: $(READY) ## Hold replay, explain, verify and what-if to what they promise, at full size
	@$(BIN)/python -m tests.forensics $(ARGS)

.PHONY: teeth
teeth: $(READY) ## Search the seeds that find each bug planted into the simulation
	@$(BIN)/python -m tests.simulation.teeth $(ARGS)

.PHONY: http-fuzz
http-fuzz: $(READY) ## Search the HTTP API for faults by its document, with every check of schemathesis, in 6 minutes
	@$(BIN)/python -m tests.http.fuzz $(ARGS)

.PHONY: fuzz
fuzz: $(READY) ## Send 50,000 malformed inputs to each decoder and edge (ARGS='--only http --count 500 --seed 7')
	@$(BIN)/python -m tests.fuzz.run $(ARGS)

.PHONY: step-proof
step-proof: $(READY) ## Kill workers around 1,000 steps: no effect happens twice (ARGS='--kills 100')
	@$(BIN)/python -m tests.acceptance.steps.proof $(ARGS)

.PHONY: waiting-proof
waiting-proof: $(READY) ## Have 10,000 jobs wait, and levels of children run on one slot (N=1000 for fewer)
	@WRIT_WAITING_JOBS=$(or $(N),10000) $(BIN)/pytest -n0 -q -o timeout=1200 tests/acceptance/test_waiting.py

.PHONY: isolation-proof
isolation-proof: $(READY) ## Deadly tasks, escapes and 100 secrets at every level, a loop blocked for 90 s, 10 GB written
	@WRIT_ISOLATION_FULL=1 $(BIN)/pytest -n0 -q -s -rs -o timeout=900 tests/acceptance/test_isolation.py \
		tests/acceptance/test_secrets.py $(ARGS)

.PHONY: bench-spawn
bench-spawn: $(READY) ## Measure what an isolated attempt costs over a plain subprocess
	@$(BIN)/python -m benchmarks.spawn $(ARGS)

.PHONY: bench
bench: $(READY) $(if $(FULL),$(PEERS)/.ready) ## Measure speed in 8 minutes (FULL=1: five passes beside peers)
	@$(BIN)/python -m benchmarks $(if $(FULL),--full) $(if $(RECORD),--record) $(ARGS)

.PHONY: bench-peers
bench-peers: $(READY) $(PEERS)/.ready ## Measure what users would pick instead, alternately with Writ
	@$(BIN)/python -m benchmarks --peers $(ARGS)

.PHONY: bench-idle
bench-idle: $(READY) ## Watch a node with 10,000 schedules and 100,000 delayed jobs do nothing
	@$(BIN)/python -m benchmarks.idle $(ARGS)

.PHONY: bench-start
bench-start: $(READY) ## Start nodes with a million jobs behind them (ARGS='--ended 50000 --live 5000' for fewer)
	@$(BIN)/python -m benchmarks.start $(ARGS)

.PHONY: bench-backlog
bench-backlog: $(READY) ## Fill a queue with a million jobs, and drain it (ARGS='--jobs 200000' for fewer)
	@$(BIN)/python -m benchmarks.backlog $(ARGS)

.PHONY: bench-takeover
bench-takeover: $(READY) ## Kill and stop leaders under load (ARGS='--kills 5 --stops 5' for fewer)
	@$(BIN)/python -m benchmarks.takeover $(ARGS)

.PHONY: bench-sweep
bench-sweep: $(READY) ## Fit how cost grows with jobs, queues, workers and tenants
	@$(BIN)/python -m benchmarks.sweep $(ARGS)

.PHONY: bench-views
bench-views: $(READY) ## Measure the views: rebuild, lag under load, memory
	@$(BIN)/python -m benchmarks.views $(ARGS)

.PHONY: bench-pages
bench-pages: $(READY) ## Fill the views with a million jobs, and ask every list (ARGS='--directory DIR' keeps them)
	@$(BIN)/python -m benchmarks.pages $(ARGS)

.PHONY: bench-gates
bench-gates: $(READY) ## Show how often gates and canaries judge rightly, by simulation (ARGS='--trials 200')
	@$(BIN)/python -m benchmarks.gates $(ARGS)

.PHONY: console-proof
console-proof: $(READY) ## Walk the console in Chromium (apt install chromium), and renew the README's pictures
	@$(BIN)/pytest -n0 -q -rs tests/http/console $(ARGS)
	@for each in overview job; do cp artifacts/console/tour-$$each.png docs/images/$$each.png; done

.PHONY: bench-console
bench-console: $(READY) ## Render the console's lists over a million jobs (ARGS='--directory DIR' keeps them)
	@$(BIN)/python -m benchmarks.console $(ARGS)

.PHONY: bench-audit
bench-audit: $(READY) ## Measure how fast a log is verified against its checkpoints (ARGS='--jobs 300000')
	@$(BIN)/python -m benchmarks.audit $(ARGS)

.PHONY: bench-fair
bench-fair: $(READY) ## Measure what a flood of one tenant costs another (ARGS='--seconds 10')
	@$(BIN)/python -m benchmarks.fair $(ARGS)

.PHONY: kill-views
kill-views: $(READY) ## Kill the views at 50 random points of a rebuild (N=200 for more)
	@WRIT_KILL_POINTS=$(or $(N),50) $(BIN)/pytest -n0 -q tests/acceptance/test_rebuilt_views.py -k kill_point

.PHONY: check
check: $(READY) ## Run every check short of the tests: lint, format, types, imports
	@echo '== ruff check';          $(BIN)/ruff check .
	@echo '== ruff format --check'; $(BIN)/ruff format --check .
	@echo '== docs';                $(BIN)/python docs/generate.py --check && $(BIN)/python deploy/grafana/generate.py --check
	@echo '== link-types --check'; $(BIN)/python .ci/link-types --check
	@echo '== mypy';                $(BIN)/mypy
	@echo '== pyright';             PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright
	@echo '== lint-imports';        cd .ci/types && ../../$(BIN)/lint-imports --config ../../pyproject.toml --no-cache --no-logo

.PHONY: docs
docs: $(READY) ## Write the reference pages and dashboards that are made from code
	@$(BIN)/python docs/generate.py
	@$(BIN)/python deploy/grafana/generate.py

.PHONY: metrics-proof
metrics-proof: $(READY) ## Have a real Prometheus scrape a node (apt install prometheus), and test the rules
	@$(BIN)/pytest -n0 -q -rs tests/deploy tests/acceptance/test_metrics.py $(ARGS)

.PHONY: setup
setup: $(READY) ## Make .venv (the other targets do this by themselves)

.PHONY: clean
clean: ## Remove .venv, caches and everything built
	@rm -rf $(VENV) $(PEERS) .writ build dist artifacts .pytest_cache .hypothesis .mypy_cache .ruff_cache *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The peers' clients; their servers come from the system's packages (see docs/benchmarks.md).
$(PEERS)/.ready: benchmarks/peers/requirements.txt benchmarks/peers/requirements-arq.txt | $(READY)
	@$(BIN)/python -m venv $(PEERS)/venv
	@$(PEERS)/venv/bin/python -m pip install --quiet --disable-pip-version-check -r benchmarks/peers/requirements.txt
	@$(BIN)/python -m venv $(PEERS)/venv-arq
	@$(PEERS)/venv-arq/bin/python -m pip install --quiet --disable-pip-version-check -r benchmarks/peers/requirements-arq.txt
	@command -v npm >/dev/null && npm install --silent --ignore-scripts --no-save --prefix $(PEERS) @restatedev/restate-server || true
	@touch $@

# The first interpreter that runs and is new enough; a name on PATH may be a stub that does not run.
$(READY): pyproject.toml constraints.txt
	@set -e; \
	found=; \
	for candidate in $(or $(PYTHON),python3.13 python3.12 python3.11 python3); do \
		if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
			found="$$candidate"; break; \
		fi; \
	done; \
	if [ -z "$$found" ]; then \
		echo 'Writ needs Python 3.11 or newer; none of these runs: $(or $(PYTHON),python3.13 python3.12 python3.11 python3).' >&2; \
		echo 'Install one, or name yours: make setup PYTHON=/path/to/python3' >&2; \
		exit 1; \
	fi; \
	echo "Setting up $(VENV) with $$("$$found" --version)"; \
	if ! $(BIN)/python -c '' >/dev/null 2>&1; then \
		rm -rf $(VENV); \
		"$$found" -m venv $(VENV) || { \
			rm -rf $(VENV); \
			echo 'This Python cannot make a virtual environment; some systems package that part apart (python3-venv).' >&2; \
			exit 1; \
		}; \
	fi; \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt setuptools; \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-build-isolation -e '.[dev]'; \
	touch $@
