"""Data-parallel training in a script of one's own.

    from caffe_losses.data_parallel.mpi import attach, initialize, rank_shard

    initialize()                                  # before the solver is made
    solver = caffe.get_solver("solver.prototxt")
    solver.restore(...) or solver.net.copy_from(...), where wanted
    attach(solver)
    for batch in batches:                         # the same on every rank
        solver.net.blobs["data"].data[...] = rank_shard(batch)
        solver.step(1)

Importing this module starts MPI. Start the script with `mpirun -n RANKS python3 script.py`.
"""

import itertools
from typing import Any, Optional, Sequence

from caffe_losses.data_parallel.gradients import GradientAverage, loss_weights, parameter_blobs
from caffe_losses.data_parallel.ranks import TIMEOUT, Meeting, ScriptEnd, comm
from caffe_losses.import_caffe import caffe

script_end: Optional[ScriptEnd] = None


def initialize(timeout: float = TIMEOUT) -> None:
    """Tells Caffe about the ranks; call it on every rank, before making the solver.

    Caffe's Data and HDF5Data layers then read every R-th record, `random_seed` gives each rank
    random numbers of its own, and rank 0 alone logs, tests and takes the solver's own snapshots.

    From here on an exception that nobody catches, a sys.exit that the other ranks do not take part
    in, and a rank that the others have waited for `timeout` seconds (0: for ever) end the whole
    job, with one message. Where rank 0 has a net to test, it is waited for without a limit.
    """
    global script_end
    tell_caffe()
    if script_end is None:
        script_end = ScriptEnd(Meeting(timeout))


def tell_caffe() -> None:
    """Tells Caffe about the ranks."""
    caffe.set_solver_count(comm.size)
    caffe.set_solver_rank(comm.rank)
    caffe.set_multiprocess(True)


def rank_shard(items: Sequence) -> Sequence:
    """This rank's part of `items`: every R-th, from its own rank on, as Caffe's Data layer reads.

    Every rank gets equally many; the last len(items) % R items go to none.
    """
    return items[comm.rank : len(items) - len(items) % comm.size : comm.size]


def attach(solver: Any, sync_counts: bool = False) -> GradientAverage:
    """Makes `solver.step` data-parallel; call it on every rank, after restoring any weights.

    All ranks get rank 0's weights, and each step averages their gradients. With `sync_counts`,
    losses of this project that are normalised over the batch use counts over all ranks.

    Raises ValueError where the ranks' solvers or nets differ, or where the net has no loss.
    """
    global script_end
    script_end = script_end or ScriptEnd(Meeting())
    meeting = script_end.meeting
    average = attach_to(meeting, solver, sync_counts)
    rank_0_tests = bool(comm.bcast(len(solver.test_nets)))
    meeting.rank_0_tests = lambda iteration: rank_0_tests
    solver.add_callback(script_end.goes_on, lambda: None)
    return average


def attach_to(meeting: Meeting, solver: Any, sync_counts: bool) -> GradientAverage:
    """What `attach` does to the solver."""
    if (caffe.solver_rank(), caffe.solver_count()) != (comm.rank, comm.size):
        raise ValueError("call initialize() before the solver is made: Caffe must know the ranks")
    meeting.wait()
    parameters = parameter_blobs(solver.net)
    if parameters and not loss_weights(solver.net):
        raise ValueError(
            "the net has parameters but no loss_weight, so nothing gives them a gradient; "
            "write `loss_weight: 1` in the loss layer (Python layers need it)"
        )
    require_same("solver or net", describe(solver))
    for _, blob in parameters:
        comm.Bcast(blob.data)
    meeting.iteration = lambda: int(solver.iter)
    return GradientAverage(solver, meeting, sync_counts)


def describe(solver: Any) -> str:
    """A line for the solver and for each layer with its parameters' shapes, and the losses."""
    net, param = solver.net, solver.param
    lines = [f"{type(solver).__name__} base_lr {param.base_lr} max_iter {param.max_iter}"]
    lines.append(f"iteration {solver.iter}")
    for name, layer in net.layer_dict.items():
        shapes = [tuple(layer.blobs[i].shape) for i in range(len(layer.blobs))]
        lines.append(f"layer {name} {layer.type} {shapes}")
    lines += [f"loss {name} weight {weight}" for name, weight in loss_weights(net)]
    return "\n".join(lines)


def require_same(name: str, text: str) -> None:
    """Raises ValueError where `text` is not rank 0's, with the first line that differs."""
    reference = comm.bcast(text)
    lines = itertools.zip_longest(text.splitlines(), reference.splitlines(), fillvalue="")
    for ours, theirs in lines:
        if ours != theirs:
            raise ValueError(
                f"the {name} differs from rank 0's: here `{ours.strip()}`, on rank 0 "
                f"`{theirs.strip()}`; give every rank the same files"
            )
