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
import sys
import traceback
from typing import Any, Sequence

from mpi4py import MPI

from caffe_losses.data_parallel.failures import announce
from caffe_losses.data_parallel.gradients import GradientAverage, loss_weights, parameter_blobs
from caffe_losses.import_caffe import caffe

comm = MPI.COMM_WORLD


def initialize() -> None:
    """Tells Caffe about the ranks; call it before making the solver.

    Caffe's Data and HDF5Data layers then read every R-th record, `random_seed` gives each rank
    random numbers of its own, and rank 0 alone logs, tests and takes the solver's own snapshots.
    """
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
    losses of this project that are normalised over the batch use counts over all ranks. From here
    on an exception that nobody catches ends the whole job, with one message.

    Raises ValueError where the ranks' solvers or nets differ, or where the net has no loss.
    """
    abort_on_exception(solver)
    if (caffe.solver_rank(), caffe.solver_count()) != (comm.rank, comm.size):
        raise ValueError("call initialize() before the solver is made: Caffe must know the ranks")
    parameters = parameter_blobs(solver.net)
    if parameters and not loss_weights(solver.net):
        raise ValueError(
            "the net has parameters but no loss_weight, so nothing gives them a gradient; "
            "write `loss_weight: 1` in the loss layer (Python layers need it)"
        )
    require_same("solver or net", describe(solver))
    for _, blob in parameters:
        comm.Bcast(blob.data)
    return GradientAverage(solver, comm, sync_counts)


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


def abort_on_exception(solver: Any) -> None:
    """Lets an exception that nobody catches end all ranks; they would wait for this one forever."""

    def hook(kind: Any, error: Any, trace: Any) -> None:
        abort(error, solver.iter)

    sys.excepthook = hook


def abort(error: BaseException, iteration: int) -> None:
    """Says what happened on this rank and ends all of them."""
    trace = traceback.format_exception(type(error), error, error.__traceback__)
    announce(comm.rank, iteration, f"{type(error).__name__}: {error}\n\n{''.join(trace)}")
    comm.Abort(1)
