"""Snapshots that are whole or not there, in Caffe's own format."""

import os
from typing import Any

from caffe_losses.import_caffe import caffe


def final_prefix(solver_file: str, param: Any) -> str:
    """The prefix of snapshot files; as in Caffe, by default the solver file's name."""
    name = os.path.splitext(solver_file)[0]
    if not param.snapshot_prefix:
        return name
    if os.path.isdir(param.snapshot_prefix):
        return os.path.join(param.snapshot_prefix, os.path.basename(name))
    return str(param.snapshot_prefix)


def partial_prefix(prefix: str) -> str:
    """The prefix under which the solver itself writes."""
    return prefix + ".partial"


def require_writable(prefix: str) -> None:
    """Raises ValueError where snapshots could not be written."""
    folder = os.path.dirname(prefix) or "."
    if not os.access(folder, os.W_OK):
        raise ValueError(f"cannot write snapshots to {folder}: make it, or set snapshot_prefix")


def write_snapshot(solver: Any, param: Any, prefix: str) -> None:
    """Takes a snapshot beside its final place and renames it, the weights before the state.

    A job that is killed at any time leaves files that are whole, and each state has its weights.
    The solver must have been made of `param` with `partial_prefix(prefix)` as its snapshot_prefix.
    """
    solver.snapshot()
    # What else lies there may be of another run, in another format, that was killed.
    suffix = ".h5" if param.snapshot_format == param.HDF5 else ""
    at_iteration = f"_iter_{solver.iter}"
    weights = f"{at_iteration}.caffemodel{suffix}"
    state = f"{at_iteration}.solverstate{suffix}"
    set_learned_net(partial_prefix(prefix) + state, prefix + weights)
    for name in (weights, state):
        with open(partial_prefix(prefix) + name, "rb") as file:
            os.fsync(file.fileno())
        os.replace(partial_prefix(prefix) + name, prefix + name)


def set_learned_net(state_file: str, weights_file: str) -> None:
    """Lets a solver state name the file that its weights are renamed to."""
    if state_file.endswith(".h5"):
        import h5py  # needed for this format alone
        import numpy as np

        with h5py.File(state_file, "r+") as state:
            del state["learned_net"]
            # Caffe reads it as a C string, whose end NumPy's string type does not store.
            name = weights_file.encode()
            state["learned_net"] = np.array(name, dtype=f"S{len(name) + 1}")
    else:
        # In a serialized protocol buffer the last value of a field counts.
        with open(state_file, "ab") as state:
            state.write(
                caffe.proto.caffe_pb2.SolverState(learned_net=weights_file).SerializeToString()
            )
