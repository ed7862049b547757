# Every target brings what it needs by itself: see tools/with-caffe.

.PHONY: help demo test test-numba test-numpy test-others lint fuzz mutants bench bench-mpi

help:
	@echo "make demo       train a net with WeightedEuclideanLossLayer on real images (2 minutes)"
	@echo "make test       lint, then all tests"
	@echo "make lint       style and types alone: ruff and mypy"
	@echo "make fuzz       many random cases instead of the few of make test"
	@echo "make mutants    changes in formulas and weights that the tests must notice (half an hour)"
	@echo "make bench      time the layers"
	@echo "make bench-mpi  time data-parallel training"

demo:
	tools/with-caffe python3 examples/skeleton_flux/train.py

# Two at a time; each shows what it has printed when it ends.
test: lint
	$(MAKE) --no-print-directory -j2 -Otarget test-numba test-others test-numpy

test-numba:
	tools/with-caffe python3 -m pytest tests/losses tests/layers

test-numpy:
	CAFFE_LOSSES_ENGINE=numpy tools/with-caffe python3 -m pytest tests/losses tests/layers \
		--ignore=tests/losses/test_engines.py --ignore=tests/layers/test_parameters.py

test-others:
	tools/with-caffe python3 -m pytest tests --ignore=tests/losses --ignore=tests/layers

lint:
	tools/with-caffe tools/lint

fuzz:
	EVERY_FLOAT=1 FUZZ_CASES=20000 INTERRUPTS=50000 SHAPES=20000 tools/with-caffe python3 -m pytest \
		tests/losses/test_fuzz.py tests/losses/test_engines.py tests/losses/test_softmax.py \
		tests/layers/test_state.py tests/layers/test_reliability.py

mutants:
	tools/with-caffe tools/mutants

bench:
	tools/with-caffe python3 benchmarks/benchmark.py

bench-mpi:
	tools/with-caffe python3 benchmarks/benchmark_mpi.py
