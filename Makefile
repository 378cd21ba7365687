# make demo: install into .venv, encode a photograph, decode it in a second process.
# make test: the tests.   make help: all targets.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
NATIVE := $(wildcard native/*.c native/*.h native/*.py)

PREFIX ?= /usr/local
DESTDIR ?=
DLFC_PYTHON ?=

.PHONY: help setup install uninstall docs demo test lint bench sanitize fuzz clean

help:
	@sed -n '1,2s/^# //p; s/^\([a-z]*\):.*## \(.*\)/  make \1: \2/p' Makefile

setup: $(STAMP) ## install dlfc and its tools into .venv

# torch first and pinned, so that no other package pulls in a larger build of it.
$(STAMP): pyproject.toml setup.py constraints.txt $(NATIVE)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,bench,train,ray]"
	touch $@

# With DLFC_PYTHON, a Python that has dlfc already, no environment is made; the installed command runs that one.
PLACE := $(PYTHON) dlfc/desktop/place.py

install: ## put command, manual pages, completion and desktop files under PREFIX (/usr/local)
	$(PLACE) install --prefix "$(PREFIX)" --destdir "$(DESTDIR)" --python "$(DLFC_PYTHON)"

uninstall: ## take back what was put under PREFIX
	$(PLACE) uninstall --prefix "$(PREFIX)" --destdir "$(DESTDIR)"

docs: $(STAMP) ## write docs/commands.md from the help of the commands
	$(BIN)/python docs/make_commands.py

demo: $(STAMP) ## encode and decode the photograph in tests/data
	@mkdir -p out
	$(BIN)/dlfc encode tests/data/photo.png -o out/photo.dlf --force
	$(BIN)/dlfc decode out/photo.dlf -o out/photo.png --force
	$(BIN)/dlfc info out/photo.dlf
	@echo "The decoded picture is out/photo.png; the original is tests/data/photo.png."

# One thread for each of the workers: torch in several processes with more threads than cores waits for itself.
test: $(STAMP) ## run the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto

lint: $(STAMP) ## ruff, mypy and, where it is installed, mandoc
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	@if command -v mandoc >/dev/null; then mandoc -Tlint -Wwarning man/*.[15]; fi

# A model of the published size needs 10 GB of disk while it is made, and a minute a picture.
PAPER ?=
PHOTOS ?=

bench: $(STAMP) ## measure coder, batches and codecs; PHOTOS=folder: on those, and seams; PAPER=folder: also paper size
	$(BIN)/python -m tests.bench.bench_coder
	$(BIN)/python -m tests.bench.bench_batch
	$(BIN)/python -m tests.bench.bench_codecs $(if $(PHOTOS),--photos "$(PHOTOS)")
	$(BIN)/python -m tests.bench.bench_gpu || test $$? -eq 2  # no GPU here
ifneq ($(PHOTOS),)
	$(BIN)/python -m tests.bench.seams "$(PHOTOS)"
endif
ifneq ($(PAPER),)
	$(BIN)/python -m tests.bench.bench_paper "$(PAPER)" --parts
else
	@echo "Paper size is not measured: it needs 10 GB of disk. Name a folder for its model, with PAPER=folder."
endif

sanitize: ## round trips and garbage through the C coder under ASan and UBSan
	@mkdir -p build
	$(CC) -std=c99 -g -O1 -Wall -Wextra -Wconversion -Werror -fsanitize=address,undefined -fno-sanitize-recover=all \
		native/check_coder.c native/dlfc_range_coder.c -o build/check_coder
	build/check_coder 20000

# With clang the coder is fuzzed by libFuzzer, else by the same program on random input, both under the sanitizers.
CLANG ?= clang
FUZZ_SECONDS ?= 60
FUZZ_CODER := build/fuzz_coder
FUZZ_SOURCES := native/fuzz_coder.c native/dlfc_range_coder.c
SANITIZED := -std=c99 -g -O1 -fsanitize=address,undefined -fno-sanitize-recover=all

fuzz: $(STAMP) ## hostile input to coder, container, models and program, FUZZ_SECONDS each (60)
	@mkdir -p build/fuzz_corpus
	@if $(CLANG) $(SANITIZED) -fsanitize=fuzzer -DDLFC_LIBFUZZER $(FUZZ_SOURCES) -o $(FUZZ_CODER) 2>build/clang.log; then \
		$(FUZZ_CODER) -max_total_time=$(FUZZ_SECONDS) -use_value_profile=1 -print_final_stats=1 -artifact_prefix=build/ \
			build/fuzz_corpus tests/fuzz/corpus/coder; \
	else \
		echo "$(CLANG) with libFuzzer is not here: the coder gets random input instead"; \
		$(CC) $(SANITIZED) $(FUZZ_SOURCES) -o $(FUZZ_CODER) && $(FUZZ_CODER) tests/fuzz/corpus/coder/* \
		&& { timeout $(FUZZ_SECONDS) $(FUZZ_CODER) || [ $$? -eq 124 ]; }; \
	fi
	DLFC_FUZZ_EXAMPLES=$$((100 * $(FUZZ_SECONDS))) $(BIN)/python -m pytest tests/fuzz/fuzz_container.py
	DLFC_FUZZ_EXAMPLES=$$((5 * $(FUZZ_SECONDS))) $(BIN)/python -m pytest tests/fuzz/fuzz_models.py
	$(BIN)/python tests/fuzz/mutate.py --files 1000000000 --seconds $(FUZZ_SECONDS) --seed $$(date +%s)
	$(BIN)/python tests/fuzz/mutate.py --files 1000000000 --seconds $(FUZZ_SECONDS) --seed $$(date +%s) --by-neighbours

clean: ## remove what was built, but not .venv
	rm -rf build out dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
