# make demo        set up, train a small model on Python's own source for 75 seconds, and let it write Python
# make test        set up, then all tests; test-full: the larger runs as well
# make test-web    the page's own tests: types, and the arithmetic of its drawings (needs Node.js)
# make page        build the page again after a change in web/
# make extras      what only some tests need: lm-eval, wandb, trackio (about 430 MB)
# make lint        ruff and mypy
# make docs        regenerate the figures and quoted source of docs/
# make clean       remove what these made

# The first of these that is there and runs; make PYTHON=... names another.
FOUND := $(shell for p in $(or $(PYTHON),python3.11 python3.12 python3.13 python3 python); do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
SETUP := .venv/set-up
LEAN := .venv/set-up-lean
# One that only the tests need: building the page installs without it.
LIBRARIES := web/node_modules/typescript/package.json

.PHONY: demo test test-full test-web page browser extras lint docs clean

demo: $(LEAN)
	$(BIN)/fathom train demo --out-dir runs/demo --overwrite
	@echo
	$(BIN)/fathom generate runs/demo -p "def " -n 160 -t 0.7 --seed 1
	@echo
	@echo "The run is in runs/demo, its loss in runs/demo/loss.png. What next:"
	@echo "  $(BIN)/fathom serve runs/demo                          see what it computes, on a page with a tour"
	@echo "  $(BIN)/fathom look runs/demo -p 'def ' -o look.html     the same page as one file"
	@echo "  $(BIN)/fathom generate runs/demo -p 'class '           let it write on"
	@echo "  $(BIN)/fathom train shakespeare-cpu --data FILE.txt     teach it your own text"
	@echo "  $(BIN)/fathom ladder --data FILE.txt                    from a bigram to LLaMA, what each idea buys"

# One process a core, each with one thread (tests/conftest.py). worksteal keeps the tests of a file together, so that
# what they share is computed once, until one process has nothing left to do.
PYTEST := $(BIN)/pytest -n auto --maxprocesses 8 --dist worksteal
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

test: $(SETUP) page browser
	$(PYTEST) -m "not slow"

test-full: $(SETUP) page browser
	$(PYTEST)

test-web: $(LIBRARIES)
	cd web && npm test

# What the tests of the page need: a browser of the distribution, and libraries of npm. Without them those tests skip.
browser:
	@for p in chromium chromium-browser google-chrome; do command -v $$p >/dev/null && exit 0; done; \
	{ [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get -qq update && apt-get -qq install -y chromium; } \
	>/dev/null 2>&1 || echo "No Chromium was found: the tests of the page in a browser skip. Install it and they run."
	@$(MAKE) --no-print-directory $(LIBRARIES) || echo "npm could not install web/: some tests of the page skip."

# Packages of extras that are large and that few tests need. Without them those tests skip.
extras: $(SETUP)
	@$(INSTALL) -e '.[eval,wandb,trackio]'

$(LIBRARIES): web/package-lock.json
	cd web && npm ci --loglevel=error && touch ../$@

# Installing builds the page, with Node.js from PyPI where the system has none; without the network it says why not.
page: $(SETUP)
	@$(BIN)/python web/page_build.py || { $(INSTALL) --no-deps -e . && cat src/fathom/glass/built/failed.txt 2>/dev/null || true; }

lint: $(SETUP)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

docs: $(SETUP)
	$(BIN)/python docs/refresh.py

# Done once, and again when a dependency changes. Nothing is compiled. The lean one holds what runs, the other also what
# checks it.
$(LEAN): WANTED := .[serve]
$(SETUP): WANTED := .[dev,peers,data,serve,tensorboard]
$(LEAN) $(SETUP): pyproject.toml constraints.txt
	$(if $(FOUND),,$(error fathom needs Python 3.11 or newer and found none; install it, or say make PYTHON=/path/to/it))
	@echo "Setting up .venv with $(FOUND); the first time this takes a few minutes."
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(FOUND) -m venv --clear .venv
	@$(INSTALL) -e '$(WANTED)'
	@touch $@

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis runs/demo
	rm -rf src/fathom/glass/built web/node_modules web/stories
