"""Long runs lose nothing: errors under `caffe train`, kills, threads, forks, memory."""

import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import train_with_snapshots

from caffe_losses.loops import parts, threads
from support.layers import DEFAULTS, LAYER, LAYERS, draw, expected, layer_of, name_of, row_with
from support.nets import fed, loss_and_gradients, loss_net, python_layer
from support.processes import ROOT, caffe_train, environment, run, write_solver

SEVERAL_PARTS = (3, 3, 171, 173)

each_row = pytest.mark.parametrize("row", DEFAULTS, ids=name_of)


# Under the `caffe train` command

TRAIN_NET = """
layer { name: "data" type: "DummyData" top: "data" top: "target"
  dummy_data_param { shape { dim: 2 dim: 3 } shape { dim: %d dim: 3 }
    data_filler { type: "gaussian" } data_filler { type: "constant" value: %s } } }
layer { name: "prediction" type: "InnerProduct" bottom: "data" top: "prediction"
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
"""
TRAIN_SETTINGS = 'max_iter: 3 base_lr: 0.01 lr_policy: "fixed" solver_mode: CPU'


def train(folder, loss, targets=2, value="0", **options):
    """Runs `caffe train` on a net with this loss layer."""
    solver = write_solver(folder, TRAIN_NET % (targets, value) + loss, TRAIN_SETTINGS)
    return caffe_train(solver, **options)


def euclidean(parameters="", **options):
    bottoms = ["prediction", "target"]
    return python_layer("pylayerUtils", "EuclideanLossLayer", bottoms, parameters, **options)


TRAINED = euclidean(loss_weight=1)
FAILURES = {  # by the method that fails: the net, and what must be said
    "setup": ({"loss": euclidean('{"a": 1}')}, "unknown parameter 'a'"),
    "reshape": ({"loss": TRAINED, "targets": 3}, "the target has shape (3, 3)"),
    "forward": ({"loss": TRAINED, "value": "nan"}, "the target is not finite in 6 of 6 elements"),
    "backward": (
        {"loss": euclidean(loss_weight=1e38), "value": "1e10"},
        "the gradient overflows float32",
    ),
}


@pytest.mark.one_engine
@pytest.mark.parametrize("method", FAILURES)
def test_caffe_train_prints_message_and_traceback_once_before_it_aborts(method, tmp_path):
    arguments, message = FAILURES[method]
    done = train(tmp_path, **arguments)
    assert done.returncode == -signal.SIGABRT
    assert done.stderr.count("Traceback (most recent call last)") == 1
    assert done.stderr.count("EuclideanLossLayer: ") == 1
    assert message in done.stderr


BUFFERED_STDERR = """
import io, sys
sys.stderr = io.TextIOWrapper(open(2, "wb", buffering=65536, closefd=False))
"""


@pytest.mark.one_engine
def test_the_message_is_printed_where_stderr_is_buffered(tmp_path):
    """As it is before Python 3.9 when stderr goes to a file; an abort loses what is in a buffer."""
    (tmp_path / "sitecustomize.py").write_text(BUFFERED_STDERR)
    arguments, message = FAILURES["forward"]
    done = train(tmp_path, python_path=[tmp_path, ROOT], **arguments)
    assert done.returncode == -signal.SIGABRT
    assert message in done.stderr


@pytest.mark.one_engine
def test_pycaffe_prints_nothing_of_its_own(capfd):
    row = DEFAULTS[0]
    inputs = draw(row, (2, 3, 4))
    net = loss_net(layer_of(row), inputs)
    net.blobs[next(iter(inputs))].data[...] = np.nan
    capfd.readouterr()
    with pytest.raises(FloatingPointError):
        net.forward()
    assert capfd.readouterr() == ("", "")


# The missing loss_weight


@pytest.mark.one_engine
def test_caffe_train_warns_that_the_net_does_not_train(tmp_path):
    done = train(tmp_path, loss=euclidean())
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("EuclideanLossLayer: the loss has no loss_weight") == 1
    assert "loss_weight: 1" in done.stderr
    assert "does not train on it" in done.stderr


def warnings_of(row, phase, iterations=3, **options):
    """The messages that a net warns with while it runs."""
    layer = layer_of(row, **options)
    if options.get("loss_weight", 1) is None:
        layer = layer.replace("loss_weight: None", "")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        net = loss_net(layer, draw(row, (2, 3, 4)), phase)
        for _ in range(iterations):
            net.forward()
    return [str(warning.message) for warning in caught]


@pytest.mark.one_engine
@each_row
def test_a_missing_loss_weight_is_warned_of_once_in_training(row):
    train, test = 0, 1
    (message,) = warnings_of(row, train, loss_weight=None)
    for part in (row.layer.name, "no loss_weight", "does not train", "write `loss_weight: 1`"):
        assert part in message
    assert warnings_of(row, train, iterations=1, loss_weight=None) == []
    assert len(warnings_of(row, train, iterations=2, loss_weight=None)) == 1
    assert warnings_of(row, test, loss_weight=None) == []
    assert warnings_of(row, train, loss_weight=1) == []
    assert warnings_of(row, train, loss_weight=0.25) == []


CONSUMERS = {
    "Power": "power_param { scale: 3 }",
    "Eltwise": 'bottom: "own" eltwise_param { coeff: 1 coeff: 2 }',
    "Scale": "scale_param { axis: 0 filler { value: 3 } }",
}


@pytest.mark.parametrize("kind", CONSUMERS)
@each_row
def test_a_loss_that_gets_its_gradient_from_another_layer_is_not_warned_of(row, kind):
    layer = layer_of(row).replace("loss_weight: 1", "").replace('"loss"', '"own"')
    layer += (
        f'layer {{ name: "loss" type: "{kind}" bottom: "own" top: "loss" loss_weight: 1 '
        f"{CONSUMERS[kind]} }}"
    )
    inputs = draw(row, (2, 3, 4))
    loss, gradients = expected(row, inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net = loss_net(layer, inputs)
        for _ in range(3):
            found, found_gradients = loss_and_gradients(net)
            np.testing.assert_allclose(found, 3 * loss, rtol=1e-5)
    for name in row.differentiable:
        scale = np.abs(gradients[name]).max()
        np.testing.assert_allclose(
            found_gradients[name], 3 * gradients[name], rtol=1e-4, atol=1e-5 * scale
        )


def test_a_loss_whose_gradient_another_layer_multiplies_with_0_is_not_warned_of():
    """As a script does that lets a loss in later."""
    layer = euclidean().replace('top: "loss"', 'top: "own"')
    layer += 'layer { name: "loss" type: "Power" bottom: "own" top: "loss" loss_weight: 1 %s }'
    row = row_with(LAYER["EuclideanLossLayer"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net = loss_net(layer % "power_param { scale: 0 }", draw(row, (2, 3, 4)))
        for _ in range(3):
            _, gradients = loss_and_gradients(net)
    assert not gradients["prediction"].any()


# Kill and resume


def training_command(folder, *snapshot):
    script = str(ROOT / "tests" / "layers" / "train_with_snapshots.py")
    return [sys.executable, script, str(folder), *map(str, snapshot)]


@pytest.mark.one_engine
def test_a_killed_run_resumes_to_the_same_weights(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    assert run(training_command(whole), tmp_path).returncode == 0

    victim = subprocess.Popen(
        training_command(killed),
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        universal_newlines=True,
    )
    while int(victim.stdout.readline()) < 8:
        victim.stdin.write("go on\n")
        victim.stdin.flush()
    victim.kill()
    victim.communicate()
    assert victim.returncode == -signal.SIGKILL
    snapshots = sorted(path.name for path in killed.glob("*.solverstate"))
    assert snapshots == ["snapshot_iter_3.solverstate", "snapshot_iter_6.solverstate"]

    resumed = run(training_command(killed, killed / snapshots[-1]), tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stdout.split() == ["7", "8", "9"]
    assert (whole / "weights.npy").read_bytes() == (killed / "weights.npy").read_bytes()


# Shapes that change all the time


def resident_bytes():
    """The physical memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def right(found, correct):
    """Whether the loss and all gradients are those of the oracle."""
    loss, gradients = found
    return abs(loss - correct[0]) <= 1e-5 * abs(correct[0]) + 1e-6 and all(
        np.all(np.abs(gradients[name] - correct[1][name]) <= 1e-5 * np.abs(correct[1][name]) + 1e-6)
        for name in gradients
    )


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="reads Linux's /proc")
def test_shapes_that_change_all_the_time_leave_memory_flat_and_results_right():
    """3,000 iterations; `make fuzz` runs 20,000."""
    iterations = int(os.environ.get("SHAPES", 3000))
    random = np.random.RandomState(0)
    each = [(row, loss_net(layer_of(row), draw(row, (1, 3)))) for row in DEFAULTS]
    wrong, previous = [], None
    for iteration, (row, net) in zip(range(iterations), itertools.cycle(each)):
        shape = previous
        while shape == previous:
            # Batches of 0 images included; three channels, as some of the rows have weights for.
            positions = [(), (random.randint(1, 2000),), tuple(random.randint(1, 9, size=2))]
            shape = (random.randint(4), 3, *positions[random.randint(3)])
        inputs = draw(row, shape, seed=iteration)
        found = loss_and_gradients(fed(net, inputs))
        if not right(found, expected(row, inputs)):
            wrong.append((iteration, row.layer.name, shape))
        if iteration == iterations // 4:
            memory = resident_bytes()
        previous = shape
    assert wrong == []
    # Of 20,000 iterations, a leak of 300 bytes in each is more; of 3,000 one of 2 kB.
    assert resident_bytes() - memory < 4e6


# Threads and processes


@pytest.fixture
def use_threads(monkeypatch):
    """A function that sets the number of threads, however many processors there are."""
    return lambda count: monkeypatch.setattr(threads, "thread_count", lambda: count)


@pytest.mark.one_engine
@pytest.mark.parametrize(
    "available, wanted, count",
    [
        (4, "", 4),
        (4, "2", 2),
        (4, "3,2", 3),
        (4, "8", 4),
        (1, "8", 1),
        (4, "0", 4),
        (4, "-1", 4),
        (4, "all", 4),
        (4, "\u00b2", 4),
        (4, " 2 ", 2),
        (4, "9" * 5000, 4),
    ],
)
def test_threads_follow_the_affinity_mask_and_omp_num_threads(
    available, wanted, count, monkeypatch
):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(available)))
    monkeypatch.setenv("OMP_NUM_THREADS", wanted)
    assert threads.thread_count() == count


@pytest.mark.one_engine
@pytest.mark.parametrize("count", [1, 2, 8])
def test_the_parts_are_really_worked_on_by_that_many_threads(count, use_threads):
    use_threads(count)
    meeting = threading.Barrier(count)
    workers = set()

    def wait_for_the_others(part):
        if threading.get_ident() not in workers:
            workers.add(threading.get_ident())
            meeting.wait(timeout=600)
        return part

    assert threads.for_each_part(wait_for_the_others, range(64)) == list(range(64))
    assert len(workers) == count


@pytest.mark.one_engine
def test_an_error_in_another_thread_is_raised_in_the_one_that_asked(use_threads):
    use_threads(2)
    main = threading.get_ident()
    meeting = threading.Barrier(2)

    def fail_elsewhere(part):
        meeting.wait(timeout=600)
        if threading.get_ident() != main:
            raise MemoryError("in another thread")

    with pytest.raises(MemoryError, match="in another thread"):
        threads.for_each_part(fail_elsewhere, range(2))


@pytest.mark.one_engine
def test_where_the_system_allows_no_more_threads_the_others_do_the_work(use_threads, monkeypatch):
    def refuse(thread):
        raise RuntimeError("can't start new thread")

    use_threads(4)
    monkeypatch.setattr(threads, "_helpers_of_process", {})
    monkeypatch.setattr(threading.Thread, "start", refuse)
    for _ in range(2):
        assert threads.for_each_part(lambda part: part**2, range(8)) == [n**2 for n in range(8)]


def test_the_shapes_here_have_several_parts():
    """So that the tests below do work in threads."""
    assert len(parts.parts(np.prod(SEVERAL_PARTS))) >= 3
    assert len(parts.parts(np.prod(train_with_snapshots.SHAPE))) >= 2


@each_row
def test_loss_and_gradient_are_the_same_to_the_bit_for_any_number_of_threads(row, use_threads):
    inputs = draw(row, SEVERAL_PARTS)
    net = loss_net(layer_of(row), inputs)
    use_threads(1)
    alone = loss_and_gradients(net)
    for count in (2, 3, 3, 3):
        use_threads(count)
        np.testing.assert_equal(loss_and_gradients(net), alone)


@each_row
def test_two_nets_in_one_process_do_not_disturb_each_other(row):
    shapes = [SEVERAL_PARTS, (3, 3, 7, 11)]
    inputs = [draw(row, shape, seed) for seed, shape in enumerate(shapes)]
    alone = [loss_and_gradients(loss_net(layer_of(row), each)) for each in inputs]
    first, second = (loss_net(layer_of(row), each) for each in inputs)
    losses = [float(net.forward()["loss"]) for net in (first, second)]
    for net in (first, second):
        net._backward(len(net.layers) - 1, 0)
    for net, loss, (loss_alone, gradients) in zip((first, second), losses, alone):
        assert loss == loss_alone
        for name in gradients:
            np.testing.assert_array_equal(net.blobs[name].diff, gradients[name])


@pytest.mark.parametrize("count", [1, 4])
def test_nets_in_two_threads_do_not_disturb_each_other(count, use_threads):
    use_threads(count)
    seeds = (1, 2)
    alone = {
        seed: [loss_and_gradients(net) for net in nets_of(seed, SEVERAL_PARTS)] for seed in seeds
    }
    meeting = threading.Barrier(len(seeds))
    same = {seed: [] for seed in seeds}

    def work(seed):
        nets = nets_of(seed, SEVERAL_PARTS)
        meeting.wait(timeout=600)
        for _ in range(2):
            for net, correct in zip(nets, alone[seed]):
                same[seed].append(equal(loss_and_gradients(net), correct))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in seeds]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=600)
    assert all(len(same[seed]) == 2 * len(LAYERS) and all(same[seed]) for seed in seeds)


def nets_of(seed, shape):
    """A net for each layer."""
    rows = map(row_with, LAYERS)
    return [loss_net(layer_of(row), draw(row, shape, seed)) for row in rows]


def equal(found, correct):
    """Whether two losses with their gradients are the same to the bit."""
    return found[0] == correct[0] and all(
        np.array_equal(found[1][name], correct[1][name]) for name in correct[1]
    )


FORK = multiprocessing.get_context("fork")


def compare_in_child(nets, correct):
    if not all(equal(loss_and_gradients(net), each) for net, each in zip(nets, correct)):
        sys.exit(3)


@pytest.mark.parametrize("count", [1, 4])
def test_a_fork_after_a_forward_does_not_hang(count, use_threads):
    """In the parent, the child and the child's child, each with an orderly exit."""
    use_threads(count)
    nets = nets_of(0, SEVERAL_PARTS)
    correct = [loss_and_gradients(net) for net in nets]

    def child():
        compare_in_child(nets, correct)
        grandchild = FORK.Process(target=compare_in_child, args=(nets, correct))
        grandchild.start()
        grandchild.join(timeout=300)
        grandchild.terminate()
        sys.exit(0 if grandchild.exitcode == 0 else 4)

    process = FORK.Process(target=child)
    process.start()
    compare_in_child(nets, correct)
    process.join(timeout=600)
    process.terminate()
    assert process.exitcode == 0  # None where it hung


# Without Caffe

WITHOUT_CAFFE = """
import sys
class NoCaffe:
    def find_spec(self, name, path=None, target=None):
        if name == "caffe":
            raise ModuleNotFoundError("No module named 'caffe'", name=name)
sys.meta_path.insert(0, NoCaffe())
import {}
"""
PUBLIC_MODULES = ["pylayerUtils", "sigmoid_ce_weight_layer", "SigmoidCrossEntropyWeightLossLayer"]


def import_error_of(done):
    """The message of the ImportError that ended a Python process."""
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: the loss layers need Caffe")
    return last


@pytest.mark.one_engine
@pytest.mark.parametrize("module", PUBLIC_MODULES)
def test_an_import_without_caffe_says_how_to_get_it(module, tmp_path):
    done = run([sys.executable, "-c", WITHOUT_CAFFE.format(module)], tmp_path)
    message = import_error_of(done)
    for part in ("No module named 'caffe'", "python3-caffe", "tools/with-caffe", "PYTHONPATH"):
        assert part in message


@pytest.mark.one_engine
@pytest.mark.parametrize("module", PUBLIC_MODULES)
def test_an_import_with_the_placeholder_of_pypi_says_how_to_get_caffe(module, tmp_path):
    (tmp_path / "caffe").mkdir()
    (tmp_path / "caffe" / "__init__.py").write_text("")
    done = run([sys.executable, "-c", f"import {module}"], tmp_path, [tmp_path, ROOT])
    message = import_error_of(done)
    for part in ("not Caffe", "placeholder", "python3-caffe", "tools/with-caffe"):
        assert part in message


@pytest.mark.one_engine
@pytest.mark.parametrize("module", PUBLIC_MODULES)
def test_an_import_with_a_caffe_that_is_broken_says_why(module, tmp_path):
    (tmp_path / "caffe").mkdir()
    broken = "raise ImportError('libcaffe.so.1: cannot open shared object file')"
    (tmp_path / "caffe" / "__init__.py").write_text(broken)
    done = run([sys.executable, "-c", f"import {module}"], tmp_path, [tmp_path, ROOT])
    assert "libcaffe.so.1: cannot open shared object file" in import_error_of(done)
