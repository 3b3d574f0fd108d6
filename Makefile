# Each command sets up what it needs in $(VENV), which belongs to this file, and
# installs again only when pyproject.toml, setup.py or the C++ sources change.
#
#   make demo     prune, retrain and draw   (make demo DEMO_FLAGS="--steps=500")
#   make figures  the paper's Figures 7 to 9 (FIGURE_FLAGS="--figure=7 --scale=full")
#   make test     the tests, without the slow ones
#   make slow     the slow tests alone
#   make test-jax     the tests without those of TensorFlow, with Keras on JAX
#   make test-torch   the same on PyTorch (make test-torch TORCH=torch==2.13.0+cpu)
#   make fuzz     the readers of files, with atheris (FUZZ_FLAGS="-max_total_time=600")
#   make lint     style and formatting
#   make docs     the guides and the reference, as web pages in docs/_build
#   make benchmark     what pruning costs, what sparse layers and the loop gain, memory
#   make clean    remove everything but results/

# The first of these that runs and is Python 3.10 to 3.13 is taken.
PYTHON ?= python3.13 python3.12 python3.11 python3.10 python3 /usr/bin/python3
VENV ?= .venv
DEMO_FLAGS ?=
FIGURE_FLAGS ?=
FUZZ_FLAGS ?= -max_total_time=60
TORCH ?= torch==2.13.0

export PIP_DISABLE_PIP_VERSION_CHECK = 1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help demo figures test slow test-jax test-torch fuzz lint docs benchmark clean

help:
	@sed -n 's/^#   make/make/p' Makefile

demo: $(VENV)/.installed-figures
	TF_CPP_MIN_LOG_LEVEL=$${TF_CPP_MIN_LOG_LEVEL:-2} \
	  $(VENV)/bin/python examples/prune_and_retrain.py $(DEMO_FLAGS)

figures: $(VENV)/.installed-figures
	TF_CPP_MIN_LOG_LEVEL=$${TF_CPP_MIN_LOG_LEVEL:-3} \
	  $(VENV)/bin/python examples/paper_figures.py $(FIGURE_FLAGS)

test: $(VENV)/.installed-tests
	$(VENV)/bin/python -m pytest -n auto

slow: $(VENV)/.installed-tests
	$(VENV)/bin/python -m pytest -n auto -m slow

test-jax test-torch: test-%: $(VENV)-%/.installed
	KERAS_BACKEND=$* $(VENV)-$*/bin/python -m pytest -n auto

fuzz: $(VENV)/.installed-fuzz
	TF_CPP_MIN_LOG_LEVEL=3 PYTHONPATH=. $(VENV)/bin/python \
	  tests/fuzz/fuzz_readers.py $(FUZZ_FLAGS) -artifact_prefix=results/fuzz/ results/fuzz

lint: $(VENV)/.installed-tests
	$(VENV)/bin/python -m ruff check .
	$(VENV)/bin/python -m ruff format --check .

docs: $(VENV)/.installed-docs
	TF_CPP_MIN_LOG_LEVEL=$${TF_CPP_MIN_LOG_LEVEL:-3} \
	  $(VENV)/bin/python -m sphinx -W --keep-going -q -b html docs docs/_build
	@echo "Open docs/_build/index.html"

benchmark: $(VENV)/.installed-tests
	$(VENV)/bin/python benchmarks/pruning_overhead.py
	$(VENV)/bin/python benchmarks/radix.py
	$(VENV)/bin/python benchmarks/sparse.py
	$(VENV)/bin/python benchmarks/sparse_conv.py
	$(VENV)/bin/python benchmarks/training_loop.py
	$(VENV)/bin/python benchmarks/sweep_memory.py
	$(VENV)/bin/python benchmarks/import_time.py

clean:
	rm -rf $(VENV) $(VENV)-jax $(VENV)-torch
	rm -rf build dist docs/_build *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -type d -name __pycache__ -prune -exec rm -rf {} +

# A command on the path may be a stub that fails to run, and Debian ships Python
# without ensurepip, so each candidate is run before it is taken.
$(VENV)/.created $(VENV)-jax/.created $(VENV)-torch/.created:
	@found=; lacking=; \
	for python in $(PYTHON); do \
	  $$python -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' \
	    >/dev/null 2>&1 || continue; \
	  if $$python -c 'import ensurepip, venv' >/dev/null 2>&1; then \
	    found=$$python; break; \
	  fi; \
	  lacking="$$lacking $$python"; \
	done; \
	if [ -z "$$found" ] && [ -n "$$lacking" ]; then \
	  echo "error:$$lacking cannot create virtual environments." \
	    "On Debian and Ubuntu: apt install python3-venv" >&2; \
	  exit 1; \
	elif [ -z "$$found" ]; then \
	  echo "error: no Python 3.10 to 3.13 found among: $(PYTHON)." \
	    "Install one, or name it: make PYTHON=/path/to/python3.13 ..." >&2; \
	  exit 1; \
	fi; \
	echo "Creating $(@D) with $$found"; \
	$$found -m venv --clear $(@D)
	@touch $@

# One stamp for each extra, written only once pip has succeeded.
$(VENV)/.installed-%: $(VENV)/.created pyproject.toml setup.py $(wildcard sparsenet_tf/kernels/native/*.cc sparsenet_tf/kernels/native/*.h)
	@echo "Installing sparsenet_tf[$*] into $(VENV); the first time takes minutes"
	@$(VENV)/bin/python -m pip install -q -e '.[$*]'
	@TF_CPP_MIN_LOG_LEVEL=3 $(VENV)/bin/python -m sparsenet_tf.kernels.native.build
	@touch $@

# Without TensorFlow, on which the package itself depends, and so piece by piece.
$(VENV)-%/.installed: $(VENV)-%/.created pyproject.toml tests/without_tensorflow.py
	@echo "Installing sparsenet_tf and $* into $(@D), which takes a minute;" \
	  "pip will say that TensorFlow is missing, as it should be"
	@$(@D)/bin/python -m pip install -q --no-deps -e .
	@$(@D)/bin/python -m pip install -q $(if $(filter torch,$*),'$(TORCH)') \
	  $$($(@D)/bin/python tests/without_tensorflow.py $*)
	@touch $@
