"""What the examples share: options, data for Caffe's own data layer, training and the report.

    options = argument_parser(__doc__, iterations=600, out="build/my_example").parse_args()
    source = write_hdf5(options.out / "train.h5", image=images, label=labels)
    solver = write_solver(options.out / "balanced", train_net(source), options, base_lr=0.001)
    weights = train(solver, options.resume)
    report(options.out / "results.json", [{"loss": "balanced", "F": evaluate(weights)}])

Each training has a folder of its own with everything that it needs, so that `caffe train -solver
FOLDER/solver.prototxt` trains the same net on the same data. All randomness of a training comes
from the seed: Caffe's (initial weights) is set in the solver, and the order of the images is the
order of the rows in the file, because Caffe's own shuffling takes no seed.
"""

import argparse
import json
import sys
from collections import deque
from pathlib import Path
from typing import Any, Dict, List, Sequence

import caffe
import h5py
import numpy as np
from caffe.proto import caffe_pb2
from tqdm import tqdm

caffe.init_log(2)  # errors only: the rest of Caffe's log would tear the progress bar

# The solver of all examples, but for base_lr. Adam's steps do not depend on the scale of the loss,
# so that no learning rate favours one of the losses that are compared.
ADAM = {
    "type": "Adam",
    "momentum": 0.9,
    "momentum2": 0.999,
    "lr_policy": "poly",  # linearly to zero
    "power": 1,
}


def argument_parser(description: str, iterations: int, out: str) -> argparse.ArgumentParser:
    """The options that every example has; an example can add its own."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--iterations", type=positive, default=iterations, help="of each training (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=1, help="of all randomness (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path(out), help="output folder (%(default)s)")
    parser.add_argument(
        "--resume", action="store_true", help="go on from the last snapshots in the output folder"
    )
    return parser


def positive(text: str) -> int:
    """A count on the command line."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not positive")
    return number


def write_hdf5(path: Path, **blobs: np.ndarray) -> str:
    """Writes arrays with one row for each image; returns the `source` that HDF5Data reads.

    Blobs are named like the tops of the HDF5Data layer. A batch starts anew at the first row when
    the last one is used up.
    """
    path = path.resolve()
    if len(str(path).split()) > 1:
        raise SystemExit(f"HDF5Data reads no path with spaces: {path}; choose another --out")
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(str(path), "w") as file:
        for name, array in blobs.items():
            file.create_dataset(name, data=array, dtype="float32", compression=1)
    source = path.with_suffix(".txt")
    source.write_text(f"{path}\n")
    return str(source)


def write_solver(folder: Path, net: Any, options: argparse.Namespace, **fields: Any) -> Path:
    """Writes train.prototxt and solver.prototxt into the folder; returns the path of the latter.

    `net` is a net spec with its data layer first and its losses last, `fields` are those of Caffe's
    SolverParameter (base_lr, lr_policy, type, ...). A run that is resumed must have the options
    that it was started with, save for the number of iterations.
    """
    folder.mkdir(parents=True, exist_ok=True)
    net_path, solver_path = folder.resolve() / "train.prototxt", folder / "solver.prototxt"
    settings = {
        "net": str(net_path),
        "max_iter": options.iterations,
        "random_seed": options.seed,
        "display": 50,
        "snapshot": 200,
        "snapshot_prefix": str(folder.resolve() / "snapshot"),
        "solver_mode": caffe_pb2.SolverParameter.CPU,
    }
    settings.update(fields)
    require_same_options(folder / "options.json", options)
    net_path.write_text(str(net.to_proto()))
    solver_path.write_text(str(caffe_pb2.SolverParameter(**settings)))
    return solver_path


def require_same_options(path: Path, options: argparse.Namespace) -> None:
    """Keeps the options of a new run in a file; exits where a resumed run has others."""
    changeable = ("iterations", "out", "resume")
    given = {name: value for name, value in vars(options).items() if name not in changeable}
    if options.resume and path.exists():
        earlier = json.loads(path.read_text())
        if earlier != given:
            raise SystemExit(
                f"cannot resume with the options {given}: {path.parent} was trained with {earlier}"
            )
    path.write_text(json.dumps(given) + "\n")


def train(solver_path: Path, resume: bool) -> str:
    """Trains as the solver says, with a progress bar; returns the path of the trained weights.

    Ctrl-C writes a snapshot and exits. With `resume` the training goes on where the last snapshot
    in the solver's folder was written, and ends with the weights that it would have had without
    the interruption.
    """
    folder = solver_path.parent
    solver = caffe.get_solver(str(solver_path))
    if not resume:
        for old in folder.glob("snapshot_iter_*"):  # not to be found by a later --resume
            old.unlink()
    elif snapshots_in(folder):
        restore(solver, snapshots_in(folder)[-1])
    recent_losses = deque(maxlen=20)  # type: deque
    try:
        with tqdm(desc=folder.name, initial=solver.iter, total=solver.param.max_iter) as bar:
            while solver.iter < solver.param.max_iter:
                solver.step(1)
                recent_losses.append(loss_of(solver.net))
                bar.set_postfix(loss=f"{np.mean(recent_losses):.4f}", refresh=False)
                bar.update()
    except KeyboardInterrupt:
        solver.snapshot()
        print(f"stopped at iteration {solver.iter}; go on with --resume", file=sys.stderr)
        sys.exit(130)  # what shells report for a command that Ctrl-C has ended
    solver.snapshot()
    return str(snapshots_in(folder)[-1].with_suffix(".caffemodel"))


def restore(solver: Any, snapshot: Path) -> None:
    """Puts the solver where it was when it wrote the snapshot."""
    solver.restore(str(snapshot))
    if solver.iter > solver.param.max_iter:
        raise SystemExit(f"{snapshot} is beyond --iterations {solver.param.max_iter}")
    for _ in range(solver.iter):
        solver.net._forward(0, 0)  # the data layer has started again from its first row


def snapshots_in(folder: Path) -> List[Path]:
    """The solver states in the folder, the latest last."""
    return sorted(
        folder.glob("snapshot_iter_*.solverstate"), key=lambda path: int(path.stem.split("_")[-1])
    )


def loss_of(net: Any) -> float:
    """The weighted sum of the net's losses after a forward pass."""
    weights = net.blob_loss_weights
    return sum(weights[name] * float(net.blobs[name].data.sum()) for name in net.outputs)


def report(path: Path, rows: Sequence[Dict[str, Any]]) -> None:
    """Prints rows with the same keys as a Markdown table and writes them as JSON."""
    path.write_text(json.dumps(rows, indent=2) + "\n")
    lines = [list(rows[0]), ["---"] * len(rows[0])]
    lines += [
        [f"{value:.3f}" if isinstance(value, float) else str(value) for value in row.values()]
        for row in rows
    ]
    print("\n".join("| " + " | ".join(line) + " |" for line in lines))
