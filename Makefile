# `make demo` and `make test` do everything on a fresh clone; `make help` lists the rest.
# PYTHON names the Python that .venv is made of; it is read only when there is no working .venv yet.

PYTHON ?= $(shell for name in python3 python3.13 python3.12 python3.11 python; do \
  $$name -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null </dev/null \
  && echo $$name && exit; done; echo python3)
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help install demo test check format benchmarks faults conformance conformance-sample docs fuzz clean

help:
	@echo 'make demo        compare the joint of the bundled model with two Core ML conversions of it'
	@echo 'make test        run the tests; ARGS="tests/mil -x" goes to pytest'
	@echo 'make check       linter, formatter and type checker, changing nothing'
	@echo 'make format      let the linter and the formatter rewrite what they can'
	@echo 'make benchmarks  measure start-up, metrics, the engine, the demo and memory'
	@echo 'make faults      put faults into networks, score what is said of them: a quarter of an hour'
	@echo 'make conformance run the tests of coremltools on the portable engine: hours; interrupted, it continues'
	@echo 'make conformance-sample  run one case of each of them: minutes'
	@echo 'make docs        build the documentation into outputs/site'
	@echo 'make fuzz        damage models for ten minutes and look for crashes; ARGS="--seconds 60"'
	@echo 'make install     only make .venv; the others do it when it is needed'
	@echo 'make clean       remove .venv, outputs/ and every cache of the checkout'

install:
	@command -v $(PYTHON) >/dev/null || { echo "SetupError: there is no '$(PYTHON)' on this machine." >&2; \
	  echo '  in Makefile, PYTHON' >&2; \
	  echo '  install Python 3.11, 3.12 or 3.13, or name it: make PYTHON=/path/to/python3.11 …' >&2; exit 2; }
	@$(PYTHON) tools/install.py nemo onnx ray dev

demo: install
	@$(BIN)/layerdiff run configs/joint.yaml; code=$$?; echo; \
	if [ $$code -eq 1 ]; then \
	  echo 'This is what the demo is for: one of its two conversions carries a real bug'; \
	  echo 'on purpose, layerdiff found it and answered with exit code 1, as it would in'; \
	  echo 'your CI. Without that conversion it answers 0:'; \
	  echo '  $(BIN)/layerdiff run configs/joint.yaml --candidate raw_logits'; \
	  echo 'and this repairs it:'; \
	  echo '  $(BIN)/layerdiff fix configs/joint.yaml --candidate cpu_traced'; \
	  echo 'The page with every plot is outputs/joint/report.html'; \
	else \
	  echo "The demo is broken: layerdiff should have ended with exit code 1, and ended with $$code." >&2; exit 1; \
	fi

test: install
	@$(BIN)/python -m pytest -q $(ARGS)

check: install
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: install
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

benchmarks: install
	@$(BIN)/python -m benchmarks

faults: install
	@$(BIN)/python -m benchmarks.faults --markdown docs/faults.md

conformance: install
	@$(BIN)/python -m conformance run $(ARGS)

conformance-sample: install
	@rm -rf outputs/conformance-sample
	@$(BIN)/python -m conformance run -k 1 --out outputs/conformance-sample $(ARGS)

docs: install
	@$(BIN)/python -m tools.docs.reference
	@$(BIN)/zensical build --strict

fuzz: install
	@$(BIN)/python -m tools.fuzz --seconds 600 $(ARGS)

clean:
	rm -rf .venv outputs build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
