"""Data-parallel training with real ranks: each test starts mpirun."""

import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys

import caffe
import h5py
import lmdb
import numpy as np
import pytest
from caffe.proto import caffe_pb2

from support import processes
from support.processes import ROOT

BATCH = 4  # of all ranks together
ITERATIONS = 6

pytestmark = pytest.mark.skipif(shutil.which("mpirun") is None, reason="needs mpirun")

HEAD = """
layer {{
  name: "score_{name}" type: "Convolution" bottom: "data" top: "score_{name}"
  convolution_param {{ num_output: {channels} kernel_size: 3 pad: 1
                       weight_filler {{ type: "gaussian" std: 0.1 }} }}
}}
layer {{
  name: "loss_{name}" type: "Python" bottom: "score_{name}" {bottoms} top: "loss_{name}"
  loss_weight: 1
  python_param {{ module: "{module}" layer: "{layer}Layer" param_str: '{param_str}' }}
}}
"""


def head(layer, bottoms="label", channels=1, module="caffe_losses.layers", **parameters):
    """A loss and a convolution for it alone."""
    name = layer.replace("Loss", "").lower()
    bottoms = " ".join(f'bottom: "{bottom}"' for bottom in bottoms.split())
    param_str = json.dumps(parameters)
    return HEAD.format(**locals())


CROSS_ENTROPY = {"layer": "SigmoidCrossEntropyWeightLoss", "module": "sigmoid_ce_weight_layer"}
VOID = {"ignore_label": -1}
CLASSES = {"channels": 2, **VOID}
# A mean over images, whatever else is in the batch.
PER_IMAGE_HEADS = [
    head("EuclideanLoss", "flux", 2, "pylayerUtils"),
    head("ChannelSumEuclideanLoss", "flux", 2, "pylayerUtils"),
    head("WeightedEuclideanLoss", "flux label", 2, "pylayerUtils"),
    head("WeightedSigmoidCrossEntropyLoss", module="pylayerUtils"),
    head(**CROSS_ENTROPY, cls_weight=3, normalization="BATCH_SIZE", **VOID),
    head("HuberLoss", "flux", 2),
    head("SmoothL1Loss", "flux", 2),
    head("DiceLoss", activation="sigmoid", reduce="image", **VOID),
    head("LovaszHingeLoss", **VOID),
    head("LovaszSoftmaxLoss", per_image=True, **CLASSES),
]
# Normalised by what else is in the batch.
OVER_BATCH_HEADS = [
    head("WeightedEuclideanLoss", "flux label", 2, "pylayerUtils", balance="batch"),
    head("WeightedSigmoidCrossEntropyLoss", module="pylayerUtils", balance="batch"),
    head(**CROSS_ENTROPY, cls_weight=3, normalization="VALID", **VOID),
    head("HuberLoss", "flux label", 2, balance="channel"),
    head("SigmoidFocalLoss", normalization="POSITIVE"),
    head("WeightedSoftmaxWithLoss", class_weight=[1, 5], **CLASSES),
    head("SoftmaxFocalLoss", alpha=[1, 5], normalization="WEIGHT", **CLASSES),
    head("DiceLoss", activation="sigmoid", **VOID),
    head("TverskyLoss", activation="softmax", beta=0.8, gamma=0.75, **CLASSES),
    # What is kept is the same on any number of ranks, with a threshold alone.
    head("SoftmaxWithLossOHEM", keep_ratio=0, thresh=0.55, **CLASSES),
]
REGRESSION = """
layer { name: "fc" type: "InnerProduct" bottom: "data" top: "fc"
        inner_product_param { num_output: 1 weight_filler { type: "gaussian" std: 0.1 } } }
layer { name: "loss" type: "EuclideanLoss" bottom: "fc" bottom: "number" top: "loss" }
"""
DATA = """
layer {{ name: "data" type: "HDF5Data" top: "data" top: "flux" top: "label" top: "number"
         hdf5_data_param {{ source: "data.txt" batch_size: {batch} }} }}
layer {{ name: "unused" type: "Silence" bottom: "flux" bottom: "label" bottom: "number" }}
"""
SGD = """
type: "SGD" base_lr: 0.01 momentum: 0.9 weight_decay: 0.01 lr_policy: "step" stepsize: 3 gamma: 0.5
"""
ADAM = 'type: "Adam" base_lr: 0.01 momentum: 0.9 momentum2: 0.999 lr_policy: "fixed"'


@pytest.fixture(autouse=True)
def in_folder_with_data(tmp_path, monkeypatch):
    """Images whose numbers of positive, negative and ignored positions differ widely."""
    monkeypatch.chdir(tmp_path)
    random = np.random.RandomState(1)
    images = BATCH * ITERATIONS
    share = random.uniform(0.05, 0.9, size=(images, 1, 1, 1))
    label = (random.uniform(size=(images, 1, 6, 6)) < share).astype(np.float32)
    label[random.uniform(size=label.shape) < share / 2] = -1
    with h5py.File("data.h5", "w") as file:
        file["data"] = random.normal(size=(images, 3, 6, 6)).astype(np.float32)
        file["flux"] = random.normal(size=(images, 2, 6, 6)).astype(np.float32)
        file["label"] = label
        file["number"] = random.normal(size=(images, 1)).astype(np.float32)
    write("data.txt", "data.h5\n")
    # caffe.io imports scikit-image to read pictures, which takes half of the time that a rank needs
    # to start; nothing here reads pictures.
    os.makedirs("without/skimage")
    for module, text in ("__init__", ""), ("io", ""), ("transform", "resize = None"):
        write(f"without/skimage/{module}.py", text)


def write(path, text):
    with open(path, "w") as file:
        file.write(text)


def write_solver(name, layers, batch, settings=SGD, extra=""):
    """A net and a solver for it, whose snapshots get the solver's name."""
    write(f"{name}_net.prototxt", DATA.format(batch=batch) + "".join(layers))
    write(
        f"{name}.prototxt",
        f'net: "{name}_net.prototxt" {settings} max_iter: {ITERATIONS} random_seed: 3 {extra}\n',
    )
    return f"{name}.prototxt"


# Ranks that fail alike speak in turn, two seconds after each other, and the first one ends all.
LONG_TURNS = """
import time, types
from caffe_losses.data_parallel import failures
failures.time = types.SimpleNamespace(sleep=lambda seconds: time.sleep(100 * seconds))
"""


@pytest.fixture
def long_turns(in_folder_with_data):
    """Lets rank 0 be as slow as it may be: the others have their turn minutes later."""
    write("without/sitecustomize.py", LONG_TURNS)


def environment(log_level=2):
    return processes.environment(
        [os.path.abspath("without"), ROOT, ROOT / "tests" / "data_parallel"],
        GLOG_minloglevel=str(log_level),
        OMP_NUM_THREADS="1",
        OMPI_MCA_mpi_yield_when_idle="1",
        OMPI_ALLOW_RUN_AS_ROOT="1",
        OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1",
    )


def command(ranks, solver, *options):
    return ["-n", str(ranks)] + [
        *(sys.executable, "-m", "caffe_losses.data_parallel", "--solver", solver),
        *options,
    ]


def mpirun(*arguments, timeout=600, log_level=2):
    """The finished job; its stdout and stderr are text."""
    return run("mpirun", "--oversubscribe", *arguments, timeout=timeout, log_level=log_level)


def run(*arguments, timeout=600, log_level=2):
    return subprocess.run(
        arguments,
        env=environment(log_level),
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
    )


def train(ranks, solver, *options):
    job = mpirun(*command(ranks, solver, *options))
    assert job.returncode == 0, job.stderr
    return job.stdout


def weights(path):
    """All parameters of a caffemodel, by layer name and index."""
    net = caffe_pb2.NetParameter()
    with open(path, "rb") as file:
        net.ParseFromString(file.read())
    return {
        f"{layer.name}[{i}]": np.array(blob.data)
        for layer in net.layer
        for i, blob in enumerate(layer.blobs)
    }


def final_weights(ranks, layers, settings=SGD, options=(), iter_size=1):
    """The weights after training on all the data, BATCH images in each iteration."""
    solver = write_solver(
        f"ranks{ranks}",
        layers,
        batch=BATCH // (ranks * iter_size),
        settings=settings,
        extra=f"iter_size: {iter_size}",
    )
    train(ranks, solver, *options)
    return weights(f"ranks{ranks}_iter_{ITERATIONS}.caffemodel")


def differences(one, other):
    """The largest one of each blob, relative to the largest weight of the blob."""
    assert one.keys() == other.keys()
    return {name: np.abs(one[name] - other[name]).max() / np.abs(one[name]).max() for name in one}


def largest_difference(one, other):
    return max(differences(one, other).values())


def the_message(job, rank):
    """The one message of a job that failed."""
    assert job.returncode != 0
    messages = re.findall(r"^data_parallel: .*", job.stderr, re.MULTILINE)
    assert len(messages) == 1, job.stderr
    assert f"rank {rank} failed" in messages[0]
    return messages[0]


# ---- ranks with a part of the batch each against one rank with the whole batch


@pytest.mark.parametrize(
    "settings, ranks_and_iter_sizes",
    [(SGD, [(2, 2), (4, 1)]), (ADAM, [(2, 2)])],
    ids=["SGD", "Adam"],
)
def test_ranks_train_as_one_rank_with_the_whole_batch(settings, ranks_and_iter_sizes):
    one = final_weights(1, PER_IMAGE_HEADS, settings)
    for ranks, iter_size in ranks_and_iter_sizes:
        many = final_weights(ranks, PER_IMAGE_HEADS, settings, iter_size=iter_size)
        assert largest_difference(one, many) < 2e-6, (ranks, iter_size)


def test_losses_over_the_batch_need_synchronised_counts():
    one = final_weights(1, OVER_BATCH_HEADS)
    synchronised = final_weights(2, OVER_BATCH_HEADS, options=["--sync-counts"])
    apart = final_weights(2, OVER_BATCH_HEADS)
    assert largest_difference(one, synchronised) < 2e-6
    different = differences(one, apart)
    assert max(different.values()) > 0.1
    # Each of them would notice if its counts were not exchanged.
    assert {name: value for name, value in different.items() if value < 1e-3} == {}


DISPLAYED = "display: 2 average_loss: 2 iter_size: 2 test_iter: 1 test_interval: 3"


def displayed(log):
    """The lines of training as Caffe logs them, without what depends on the time."""
    lines = re.findall(r"\] (Iteration \d+[, (].*| +Train net output .*)", log)
    return [
        re.sub(r" \(\S+ iter/s, \S+ iters\)", "", line)
        for line in lines
        if "Testing net" not in line and "of the time" not in line
    ]


def numbers(lines):
    return np.array(
        [float(number) for line in lines for number in re.findall(r"-?\d[\d.e+-]*", line)]
    )


def test_display_shows_what_caffe_shows_with_means_over_all_ranks():
    solver = write_solver("caffe", PER_IMAGE_HEADS, BATCH // 2, extra=DISPLAYED)
    job = run("caffe", "train", "--solver", solver, log_level=0)
    expected = displayed(job.stderr)
    assert [line.split(",")[0] for line in expected if "loss = " in line and "Iter" in line] == [
        f"Iteration {iteration}" for iteration in (0, 2, 4, 6)
    ]
    last = "Train net output #9: loss_weightedsigmoidcrossentropy = "
    assert sum(last in line for line in expected) == 3
    assert sum(", lr = " in line for line in expected) == 3

    one = mpirun(*command(1, solver), log_level=0)
    assert displayed(one.stderr) == expected

    solver = write_solver("ranks2", PER_IMAGE_HEADS, BATCH // 4, extra=DISPLAYED)
    two = displayed(mpirun(*command(2, solver), log_level=0).stderr)
    assert [re.sub(r"\d\S*", "", line) for line in two] == [
        re.sub(r"\d\S*", "", line) for line in expected
    ]
    np.testing.assert_allclose(numbers(two), numbers(expected), rtol=2e-5)


DATABASE = """
layer {{ name: "data" type: "Data" top: "data" top: "number"
         data_param {{ source: "database" backend: LMDB batch_size: {batch} }} }}
"""


def test_databases_are_shared_out_among_ranks():
    random = np.random.RandomState(2)
    with lmdb.open("database").begin(write=True) as transaction:
        for i in range(BATCH * ITERATIONS):
            datum = caffe_pb2.Datum(channels=3, height=6, width=6, label=i % 5)
            datum.float_data.extend(random.normal(size=3 * 6 * 6))
            transaction.put(b"%04d" % i, datum.SerializeToString())
    found = []
    for ranks in 1, 2:
        write("net.prototxt", DATABASE.format(batch=BATCH // ranks) + REGRESSION)
        write("solver.prototxt", f'net: "net.prototxt" max_iter: {ITERATIONS} random_seed: 3 {SGD}')
        train(ranks, "solver.prototxt")
        found.append(weights(f"solver_iter_{ITERATIONS}.caffemodel"))
    assert largest_difference(*found) < 2e-6


LIBRARY_SCRIPT = """
import sys, time
import caffe, h5py
from caffe_losses.data_parallel.mpi import attach, comm, initialize, rank_shard

initialize()
solver = caffe.get_solver("fed.prototxt")
attach(solver)
with h5py.File("data.h5", "r") as file:
    data, number = file["data"][:], file["number"][:]
for start in range(0, len(data), 4):
    for name, images in ("data", data), ("number", number):
        shard = rank_shard(images[start : start + 4])
        solver.net.blobs[name].reshape(*shard.shape)
        solver.net.blobs[name].data[...] = shard
    if sys.argv[1:] and solver.iter == 2 and comm.rank == 0:
        exec(sys.argv[1])
    solver.step(1)
if comm.rank == 0:
    time.sleep(0.5)  # the other ranks have ended
    solver.net.save(f"fed_by_{comm.size}.caffemodel")
print(rank_shard(range(7)))
sys.exit()
"""
CATCHING = """
    try:
        solver.step(1)
        sys.exit(2)
    except (RuntimeError, SystemExit):
        pass
"""
INPUTS = """
layer { name: "data" type: "Input" top: "data" top: "number"
        input_param { shape { dim: 2 dim: 3 dim: 6 dim: 6 } shape { dim: 2 dim: 1 } } }
"""


def write_library_script():
    write("script.py", LIBRARY_SCRIPT)
    write("fed_net.prototxt", INPUTS + REGRESSION)
    write("fed.prototxt", f'net: "fed_net.prototxt" max_iter: 6 random_seed: 3 {SGD}')


def test_a_script_that_feeds_blobs_trains_as_one_rank():
    write_library_script()
    for ranks, shards in ("1", ["range(0, 7)"]), ("2", ["range(0, 6, 2)", "range(1, 6, 2)"]):
        job = mpirun("-n", ranks, sys.executable, "script.py")
        assert job.returncode == 0, job.stderr
        # Equally long, and nothing else is left out.
        assert sorted(job.stdout.splitlines()) == shards
    one, two = (weights(f"fed_by_{ranks}.caffemodel") for ranks in "12")
    assert largest_difference(one, two) < 2e-6


def test_rank_0_alone_tests_at_each_interval_and_at_the_end():
    solver = write_solver("solver", [REGRESSION], 2, extra="test_iter: 1 test_interval: 4")
    rewrite(solver, solver, "max_iter: 6", "max_iter: 8")
    job = mpirun(*command(2, solver), log_level=0)
    tested = re.findall(r"Iteration (\d+), Testing net", job.stderr)
    assert tested == ["0", "4", "8"], job.stderr


# ---- snapshots


@pytest.mark.parametrize(
    "settings, file_format, suffix",
    [(SGD, "BINARYPROTO", ""), (ADAM, "HDF5", ".h5")],
    ids=["SGD", "Adam, HDF5"],
)
def test_a_restored_run_continues_to_the_bit(settings, file_format, suffix):
    half = ITERATIONS // 2
    shutil.copy("data.h5", "whole.h5")
    with h5py.File("whole.h5", "r") as whole, h5py.File("data.h5", "w") as file:
        for name in whole:  # the data layer is back at the start when the run goes on
            file[name] = whole[name][: BATCH * half]
    os.mkdir("snapshots")
    extra = f'snapshot: {half} snapshot_prefix: "snapshots/run" snapshot_format: {file_format}'
    solver = write_solver("solver", PER_IMAGE_HEADS, BATCH // 2, settings, extra)
    train(2, solver)
    names = {
        f"run_iter_{iteration}.{kind}{suffix}"
        for iteration in (half, ITERATIONS)
        for kind in ("caffemodel", "solverstate")
    }
    assert set(os.listdir("snapshots")) == names
    os.rename("snapshots", "uninterrupted")
    os.mkdir("snapshots")
    for kind in "caffemodel", "solverstate":
        name = f"run_iter_{half}.{kind}{suffix}"
        shutil.copy(f"uninterrupted/{name}", f"snapshots/{name}")

    train(2, solver, "--snapshot", f"snapshots/run_iter_{half}.solverstate{suffix}")

    assert set(os.listdir("snapshots")) == names
    last = f"run_iter_{ITERATIONS}.caffemodel{suffix}"
    expected, restored = (load(f"{folder}/{last}") for folder in ("uninterrupted", "snapshots"))
    for layer in expected:
        for i in range(len(expected[layer])):
            assert (expected[layer][i].data == restored[layer][i].data).all(), layer


def load(caffemodel):
    """The parameters of a net with these weights."""
    net = caffe.Net("solver_net.prototxt", caffe.TRAIN)
    net.copy_from(caffemodel)
    return net.params


def test_a_plain_caffe_solver_restores_the_snapshot_whatever_a_killed_run_left():
    for name in "caffemodel", "solverstate", "caffemodel.h5", "solverstate.h5":
        write(f"solver.partial_iter_3.{name}", "of a run that was killed")
    solver = write_solver("solver", [REGRESSION], BATCH // 2, extra="snapshot: 3")
    train(2, solver)
    assert not os.path.exists("solver_iter_3.caffemodel.h5")
    plain = caffe.get_solver(solver)
    plain.restore("solver_iter_3.solverstate")
    assert plain.iter == 3
    expected = weights("solver_iter_3.caffemodel")
    assert (plain.net.params["fc"][0].data.ravel() == expected["fc[0]"]).all()


def test_training_starts_from_the_weights_given():
    write_solver("first", [REGRESSION], BATCH // 2)
    train(2, "first.prototxt")
    solver = write_solver(
        "second", [REGRESSION], BATCH // 2, settings='base_lr: 0 lr_policy: "fixed"'
    )
    train(2, solver, "--weights", f"first_iter_{ITERATIONS}.caffemodel")
    expected = weights(f"first_iter_{ITERATIONS}.caffemodel")
    assert largest_difference(expected, weights(f"second_iter_{ITERATIONS}.caffemodel")) == 0


# ---- failures


def regression_through(layer, param_str):
    """The net with a layer before its loss that fails."""
    failing_layer = f"""
    layer {{ name: "failing" type: "Python" bottom: "fc" top: "passed"
             python_param {{ module: "data_parallel_layers" layer: "{layer}"
                             param_str: "{param_str}" }} }}
    """
    loss = REGRESSION.index("layer", REGRESSION.index('top: "fc"'))
    return REGRESSION[:loss] + failing_layer + REGRESSION[loss:].replace('"fc"', '"passed"')


@pytest.mark.parametrize(
    "layer, rank, cause",
    [
        ("NanLayer", 1, "NaN or infinity in the loss loss, gradient of fc[0], gradient of fc[1];"),
        ("KilledLayer", 0, "died of SIGKILL"),
        ("AbortingLayer", 0, "died of SIGABRT"),
        ("ExitingLayer", 0, "SystemExit: 0"),
        ("InterruptedLayer", 0, "KeyboardInterrupt"),
        ("ClosingLayer", 0, "GeneratorExit"),
    ],
)
def test_a_failing_rank_ends_the_job_with_one_message_and_a_whole_snapshot(layer, rank, cause):
    layers = [regression_through(layer, f"{rank} 4")]
    solver = write_solver("solver", layers, BATCH // 2, extra="snapshot: 2")
    message = the_message(mpirun(*command(2, solver)), rank)
    assert "at iteration 4" in message and cause in message
    caffe.get_solver(solver).restore("solver_iter_4.solverstate")


@pytest.mark.usefixtures("long_turns")
def test_ranks_that_fail_alike_give_one_message():
    solver = write_solver("solver", [regression_through("RaisingLayer", "all 2")], BATCH // 2)
    message = the_message(mpirun(*command(2, solver)), rank=0)
    assert "at iteration 2" in message


HANG = "data_parallel_layers.touch('late'); time.sleep(600)"


@pytest.mark.usefixtures("long_turns")
@pytest.mark.parametrize(
    "end, cause",
    [
        ("import os; os.kill(os.getpid(), 2)", "KeyboardInterrupt"),
        ("sys.exit('no images')", "SystemExit: its script ended with status 'no images'"),
        (
            "raise SystemExit(3)",
            "its script ended, as by sys.exit or with fewer steps, while other ranks go on",
        ),
        ("break", "its script ended, as by sys.exit or with fewer steps, while other ranks go on"),
        (HANG, "the other ranks have waited 1 seconds (the timeout) for it; it hangs"),
    ],
)
def test_an_end_of_one_ranks_script_ends_the_job_with_one_message(end, cause):
    write_library_script()
    if end == "break":
        rewrite("script.py", "script.py", "exec(sys.argv[1])", end)
    if end == HANG:
        with_clock = "import data_parallel_layers\n\ndata_parallel_layers.keep_time()\n"
        rewrite("script.py", "script.py", "initialize()\n", f"{with_clock}initialize(timeout=1)\n")
    job = mpirun("-n", "2", sys.executable, "script.py", end)
    message = the_message(job, rank=0)
    assert "at iteration 2" in message and cause in message


@pytest.mark.usefixtures("long_turns")
def test_an_exit_of_a_layer_in_a_script_ends_the_job_with_one_message():
    write_library_script()
    write("fed_net.prototxt", INPUTS + regression_through("ExitingLayer", "0 2"))
    message = the_message(mpirun("-n", "2", sys.executable, "script.py"), rank=0)
    assert "at iteration 2" in message
    assert "its script ended, as by sys.exit or with fewer steps, while other ranks" in message


def test_scripts_that_catch_what_ends_a_step_on_all_ranks_end_as_any_other():
    write_library_script()
    write("fed_net.prototxt", INPUTS + regression_through("RaisingLayer", "all 2"))
    rewrite("script.py", "script.py", "    solver.step(1)", CATCHING)
    job = mpirun("-n", "2", sys.executable, "script.py")
    assert (job.returncode, job.stderr) == (0, "")


@pytest.mark.usefixtures("long_turns")
def test_a_rank_that_hangs_is_named_after_the_timeout():
    layers = [regression_through("HangingLayer", "1 4")]
    job = command(3, write_solver("solver", layers, 1), "--timeout", "1")
    message = the_message(mpirun(*job), rank=1)
    assert "at iteration 4" in message
    assert "the other ranks have waited 1 seconds (the timeout) for it" in message


def test_rank_0_may_test_for_longer_than_the_timeout():
    slow = """
    layer { name: "slow" type: "Python" bottom: "fc" top: "slow" include { phase: TEST }
            python_param { module: "data_parallel_layers" layer: "SlowLayer" param_str: "0 1" } }
    """
    layers = [regression_through("ClockLayer", "0 -1"), slow]
    solver = write_solver("solver", layers, 2, extra="test_iter: 1 test_interval: 3")
    assert train(2, solver, "--timeout", "0.5") == ""
    assert os.path.exists("waited")


@pytest.mark.usefixtures("long_turns")
def test_where_caffe_is_missing_one_message_says_how_to_get_it():
    os.mkdir("modules")
    write("modules/caffe.py", "raise ImportError('no caffe here')")
    job = mpirun("-x", f"PYTHONPATH=modules:without:{ROOT}", *command(2, "solver.prototxt"))
    message = the_message(job, rank=0)
    assert "before the first iteration: ImportError: the loss layers need Caffe" in message
    assert "no caffe here" in message and "python3-caffe" in message


def test_where_mpi4py_is_missing_an_error_says_how_to_get_it():
    os.mkdir("modules")
    write("modules/mpi4py.py", "raise ImportError('no MPI here')")
    job = run("env", f"PYTHONPATH=modules:{ROOT}", *command(1, "solver.prototxt")[2:])
    assert job.returncode == 1
    assert "needs mpi4py and an MPI: no MPI here" in job.stderr
    assert "python3-mpi4py" in job.stderr


@pytest.mark.parametrize("timeout", ["-1", "nan", "inf", "soon"])
def test_a_timeout_that_is_no_number_of_seconds_is_an_error(timeout):
    job = run(*command(1, "solver.prototxt", f"--timeout={timeout}")[2:])
    assert job.returncode == 2
    assert "--timeout" in job.stderr and timeout in job.stderr


def test_a_kill_while_a_snapshot_is_written_leaves_whole_ones():
    """The weights go into a pipe, of which this test reads a part: what is written then waits."""
    big = """
    layer { name: "big" type: "InnerProduct" bottom: "data" top: "big"
            inner_product_param { num_output: 3000 } }
    layer { name: "ignore_big" type: "Silence" bottom: "big" }
    """
    layers = [regression_through("FailingLayer", "0 -1 pid"), big]
    solver = write_solver("solver", layers, 1, extra="snapshot: 1")
    os.mkfifo("solver.partial_iter_2.caffemodel")
    pipe = os.open("solver.partial_iter_2.caffemodel", os.O_RDONLY | os.O_NONBLOCK)
    job = subprocess.Popen(
        ["mpirun", "--oversubscribe", *command(2, solver)],
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not select.select([pipe], [], [], 0.1)[0]:
        assert job.poll() is None
    assert os.read(pipe, 1000)
    with open("pid") as file:
        os.kill(int(file.read()), signal.SIGKILL)
    assert job.wait(timeout=600) != 0
    os.close(pipe)
    assert not os.path.exists("solver_iter_2.caffemodel")
    caffe.get_solver(solver).restore("solver_iter_1.solverstate")


@pytest.mark.parametrize(
    "what, change",
    [("solver", ("base_lr: 0.5", "base_lr: 0.25")), ("net", ("num_output: 1", "num_output: 2"))],
)
def test_a_solver_or_net_that_differs_between_ranks_is_found_at_the_start(what, change):
    write_solver("solver", [REGRESSION], 2, 'base_lr: 0.5 lr_policy: "fixed"')
    os.mkdir("other")
    for path in "solver.prototxt", "solver_net.prototxt":
        rewrite(path, f"other/{path}", *change)
    ranks = [*command(1, "solver.prototxt"), ":", "-wdir", "other", *command(1, "solver.prototxt")]
    message = the_message(mpirun(*ranks), rank=1)
    assert "before the first iteration" in message
    assert (
        f"the {what} differs from rank 0's: here `{change[1]}`, on rank 0 `{change[0]}`" in message
    )


def rewrite(source, target, old, new):
    with open(source) as file:
        text = file.read()
    write(target, text.replace(old, new))


NO_LOSS_WEIGHT = REGRESSION.replace('top: "loss"', 'top: "loss" loss_weight: 0')
IMAGES = """
layer { name: "photos" type: "ImageData" top: "photos" top: "photo_label"
        image_data_param { source: "photos.txt" } }
"""


SHUFFLED = IMAGES.replace('"photos.txt"', '"photos.txt" shuffle: true')
CANNOT_WORK = [
    (REGRESSION + IMAGES, "", "images; convert images and labels to LMDB"),
    (
        REGRESSION + SHUFFLED,
        "",
        "layer photos: Caffe's ImageData with `shuffle: true` draws an order of its own, so its "
        "images do not belong to what data read; convert images and labels to LMDB",
    ),
    (NO_LOSS_WEIGHT, "", "parameters but no loss_weight"),
    (REGRESSION, 'snapshot_prefix: "missing/run"', "cannot write snapshots to missing"),
    (REGRESSION, "momentun: 1", 'has no field named "momentun"'),
    (REGRESSION, "solver_mode: GPU", "write `solver_mode: CPU`"),
]
TRY_SOLVERS = """
import sys
from argparse import Namespace
from caffe_losses.data_parallel import ranks, training

meeting = ranks.Meeting()
for solver in sys.argv[1:]:
    options = Namespace(solver=solver, weights=None, snapshot=None, sync_counts=False)
    try:
        training.train(options, meeting, [0, -1])
    except ValueError as error:
        if ranks.comm.rank == 0:
            print(error, flush=True)
"""


def errors_of(*solvers):
    """What two ranks say of these solvers, a line for each."""
    write("try_solvers.py", TRY_SOLVERS)
    job = mpirun("-n", "2", sys.executable, "try_solvers.py", *solvers)
    assert job.returncode == 0, job.stderr
    return job.stdout.splitlines()


def test_a_job_that_cannot_work_is_an_error_before_the_first_iteration():
    solvers = [
        write_solver(f"solver{i}", [layers], 2, extra=extra)
        for i, (layers, extra, _) in enumerate(CANNOT_WORK)
    ]
    found = errors_of(*solvers)
    assert len(found) == len(CANNOT_WORK)
    for error, (_, _, expected) in zip(found, CANNOT_WORK):
        assert expected in error


def test_a_single_image_layer_must_be_shuffled():
    alone = 'layer { name: "data" type: "ImageData" top: "data" top: "number" image_data_param {'
    write("net.prototxt", alone + ' source: "photos.txt" } }' + REGRESSION)
    write("solver.prototxt", f'net: "net.prototxt" max_iter: 1 {SGD}')
    (error,) = errors_of("solver.prototxt")
    assert "every rank would read the same images; set `shuffle: true`" in error


@pytest.mark.usefixtures("long_turns")
@pytest.mark.parametrize(
    "option, expected",
    [
        ("--snapshot", "No such file or directory: 'gone'"),
        ("--weights", "no weights at gone"),
    ],
)
def test_a_file_to_start_from_that_is_missing_ends_the_job(option, expected):
    solver = write_solver("solver", [REGRESSION], 2)
    message = the_message(mpirun(*command(2, solver, option, "gone")), rank=0)
    assert "before the first iteration" in message and expected in message


@pytest.mark.usefixtures("long_turns")
def test_attach_refuses_a_solver_made_before_the_ranks_were_known():
    write_library_script()
    rewrite("script.py", "script.py", "initialize()\n", "\n")
    assert "call initialize() before" in the_message(
        mpirun("-n", "2", sys.executable, "script.py"), 0
    )
