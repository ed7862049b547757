# Every target brings what it needs by itself: see tools/with-caffe.

.PHONY: help demo test test-numba test-numpy test-examples test-others lint fuzz mutants bench bench-mpi

help:
	@echo "make demo       train a net with WeightedEuclideanLossLayer on real images (2 minutes)"
	@echo "make test       lint and all tests"
	@echo "make lint       style and types alone: ruff and mypy"
	@echo "make fuzz       many random cases instead of the few of make test"
	@echo "make mutants    changes in formulas and weights that the tests must notice (an hour and a half)"
	@echo "make bench      time the layers"
	@echo "make bench-mpi  time data-parallel training"

demo:
	tools/with-caffe python3 examples/skeleton_flux/train.py

# Two at a time; each shows what it has printed when it ends. test-numba is the one that compiles the
# loops: what else needs them comes later and finds them in the cache.
test:
	$(MAKE) --no-print-directory -j2 -Otarget test-numba lint test-numpy test-others test-examples

# The BLAS of each process has one thread: the other core has its own work.
test-%: export OPENBLAS_NUM_THREADS = 1

# The tests that need all loops come first.
test-numba: FIRST = tests/losses/test_losses.py
test-numba:
	tools/with-caffe python3 -m pytest -m "not one_engine" $(FIRST) \
		$(filter-out $(FIRST),$(wildcard tests/losses/test_*.py)) tests/layers

test-numpy: export CAFFE_LOSSES_ENGINE = numpy
test-numpy:
	tools/with-caffe python3 -m pytest tests/losses tests/layers

test-examples:
	tools/with-caffe python3 -m pytest tests/documents tests/examples

test-others:
	tools/with-caffe python3 -m pytest tests --ignore=tests/losses --ignore=tests/layers \
		--ignore=tests/documents --ignore=tests/examples

lint:
	tools/with-caffe tools/lint

fuzz:
	EVERY_FLOAT=1 FUZZ_CASES=20000 INTERRUPTS=50000 SHAPES=20000 tools/with-caffe python3 -m pytest \
		tests/losses/test_fuzz.py tests/losses/test_engines.py \
		tests/layers/test_state.py tests/layers/test_reliability.py

mutants:
	tools/with-caffe tools/mutants

bench:
	tools/with-caffe python3 benchmarks/benchmark.py

bench-mpi:
	tools/with-caffe python3 benchmarks/benchmark_mpi.py
