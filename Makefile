# Two commands do all the set-up: `make run` and `make test`. `make help` lists the rest.
VENV := .venv
PY := $(VENV)/bin/python

.PHONY: stubs
stubs: ## generate the protobuf stubs
	$(PY) protos/generate.py
