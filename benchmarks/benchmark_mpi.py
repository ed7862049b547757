"""Measures data-parallel training on this machine and says how far it would scale.

    tools/with-caffe python3 benchmarks/benchmark_mpi.py [--out build/benchmark_mpi.json]

Runs mpirun for each net with 1 and 2 ranks, with the gradients averaged in one piece after backward
and in buckets during it, and lets Open MPI count the bytes. docs/scaling.md explains the tables.
"""

import argparse
import json
import math
import os
import re
import subprocess
import sys
import tempfile
from typing import Dict, List, NamedTuple

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
WORKER = os.path.join(ROOT, "benchmarks", "mpi_worker.py")
MODULES = [ROOT, os.path.join(ROOT, "examples", "skeleton_flux")]

BATCHES = {"skeleton": 16, "vgg16": 1}  # of each rank
STEPS = {"skeleton": 20, "vgg16": 4}

Run = NamedTuple(
    "Run",
    [("net", str), ("ranks", int), ("cores", int), ("batch", int), ("exchange", str)],
)  # cores and batch of each rank

# What is assumed about networks: bytes per second of the wire, seconds for a message to arrive.
NETWORKS = {"10 Gbit/s": (1.25e9, 30e-6), "100 Gbit/s": (12.5e9, 5e-6)}
EFFICIENCY = 0.8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="build/benchmark_mpi.json", metavar="FILE")
    parser.add_argument("--nets", nargs="+", choices=sorted(BATCHES), default=sorted(BATCHES))
    parser.add_argument("--rounds", type=int, default=2, help="the fastest step of these counts")
    options = parser.parse_args()
    runs = [run for net in options.nets for run in runs_of(net)]
    fastest: Dict[Run, Dict[str, float]] = {}
    for _ in range(options.rounds):
        for run in runs:
            print(
                f"{run.net}: {run.ranks} ranks with {run.cores} cores and {run.batch} images each, "
                f"{run.exchange}",
                file=sys.stderr,
            )
            result = measure(run)
            if run not in fastest or result["step"] < fastest[run]["step"]:
                fastest[run] = result
    print_steps(fastest)
    print_bytes(fastest)
    for net in options.nets:
        print_model(net, Model(net, fastest))
    os.makedirs(os.path.dirname(options.out) or ".", exist_ok=True)
    with open(options.out, "w") as file:
        json.dump([dict(run._asdict(), **fastest[run]) for run in runs], file, indent=1)


def runs_of(net: str) -> List[Run]:
    batch = BATCHES[net]
    runs = [
        Run(net, 1, 1, batch, "flat"),
        Run(net, 1, 1, 2 * batch, "flat"),
        Run(net, 1, 2, 2 * batch, "flat"),
        Run(net, 2, 1, batch, "flat"),
        Run(net, 2, 1, batch, "buckets"),
    ]
    if net == "skeleton":  # for the bytes, on however few cores
        runs += [Run(net, ranks, 1, batch, "flat") for ranks in (3, 4)]
    return runs


def measure(run: Run) -> Dict[str, float]:
    """What rank 0 measured, and the most bytes that any rank sent for one all-reduce."""
    with tempfile.TemporaryDirectory() as folder:
        monitoring = {
            "pml_monitoring_enable": "2",
            "pml_monitoring_enable_output": "3",
            "pml_monitoring_filename": os.path.join(folder, "sent"),
        }
        command = ["mpirun", "--oversubscribe", "--bind-to", "none", "-n", str(run.ranks)]
        for name, value in monitoring.items():
            command += ["--mca", name, value]
        command += [sys.executable, WORKER, run.net, run.exchange]
        command += [str(run.batch), str(STEPS[run.net]), folder]
        subprocess.run(command, env=environment(run.cores), check=True)
        with open(os.path.join(folder, "result.json")) as file:
            result: Dict[str, float] = json.load(file)
        sent = [bytes_sent(os.path.join(folder, f"sent.{rank}.prof")) for rank in range(run.ranks)]
    result["sent"] = max(sent) / (STEPS[run.net] + 1)  # one step warms up
    return result


def environment(cores: int) -> Dict[str, str]:
    return dict(
        os.environ,
        PYTHONPATH=os.pathsep.join([*MODULES, os.environ.get("PYTHONPATH", "")]),
        OMP_NUM_THREADS=str(cores),
        OPENBLAS_NUM_THREADS=str(cores),
        GLOG_minloglevel="2",
        OMPI_ALLOW_RUN_AS_ROOT="1",
        OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1",
    )


def bytes_sent(profile: str) -> int:
    """All that a rank sent in the messages that collectives are made of."""
    with open(profile) as file:
        return sum(map(int, re.findall(r"^I\t\d+\t\d+\t(\d+) bytes", file.read(), re.MULTILINE)))


def ring_bytes(ranks: int, parameters: float) -> float:
    """The least that each rank must send in an all-reduce, which is what a ring sends."""
    return 2 * (ranks - 1) / ranks * parameters * 4


class Model:
    """The time of a step on R ranks that are connected by a network, from measurements here.

    fixed + images * per_image is the step of one rank alone (the update does not depend on the
    batch). Averaging adds `copying` to and from the flat buffer, and for each byte sent the time
    that the all-reduce took here, through shared memory, and the time on the wire.
    """

    def __init__(self, net: str, results: Dict[Run, Dict[str, float]]) -> None:
        batch = BATCHES[net]
        one, twice, two = (
            results[Run(net, ranks, 1, images, "flat")]
            for ranks, images in ((1, batch), (1, 2 * batch), (2, batch))
        )
        alone = [result["step"] - result["averaging"] for result in (one, twice)]
        self.batch = batch
        self.per_image = (alone[1] - alone[0]) / batch
        self.fixed = max(0.0, alone[0] - batch * self.per_image)
        self.parameters = one["parameters"]
        self.copying = two["averaging"] - two["waiting"] - two["transfer"]
        self.per_byte = two["transfer"] / ring_bytes(2, self.parameters)

    def averaging(self, ranks: int, network: str) -> float:
        if ranks == 1:
            return 0.0
        bandwidth, latency = NETWORKS[network]
        sent = ring_bytes(ranks, self.parameters)
        wire = sent / bandwidth + 2 * (ranks - 1) * latency
        return self.copying + sent * self.per_byte + wire

    def images_for(self, efficiency: float, ranks: int, network: str) -> int:
        """The batch of each rank with which averaging takes 1 - efficiency of a step."""
        alone = efficiency / (1 - efficiency) * self.averaging(ranks, network)
        return max(1, math.ceil((alone - self.fixed) / self.per_image))

    def step(self, ranks: int, batch: float, network: str) -> float:
        """With a batch that all ranks share."""
        alone = self.fixed + batch / ranks * self.per_image
        return alone + self.averaging(ranks, network)

    def last_useful_doubling(self, batch: int, network: str) -> int:
        """The most ranks (a power of 2) that are still 1.5 times as fast as half of them."""
        ranks = 1
        while 2 * ranks <= batch and (
            self.step(ranks, batch, network) >= 1.5 * self.step(2 * ranks, batch, network)
        ):
            ranks *= 2
        return ranks


# ---- tables


def print_steps(results: Dict[Run, Dict[str, float]]) -> None:
    rows = [
        ["net", "ranks", "cores", "batch", "exchange", "images/s", "step", "after backward"]
        + ["waiting", "all-reduce", "share"]
    ]
    for run, result in results.items():
        if run.ranks <= 2:
            rows.append(
                [run.net, str(run.ranks), str(run.cores), str(run.batch), run.exchange]
                + [f"{run.ranks * run.batch / result['step']:.3g}"]
                + [milliseconds(result[key]) for key in ("step", "averaging")]
                + [milliseconds(result[key]) for key in ("waiting", "transfer")]
                + [f"{result['transfer'] / result['step']:.1%}"]
            )
    print("Steps; cores and batch are those of each rank")
    print_table(rows)


def print_bytes(results: Dict[Run, Dict[str, float]]) -> None:
    rows = [["net", "ranks", "sent", "ring"]]
    for run, result in results.items():
        if run.ranks > 1 and run.exchange == "flat":
            ring = ring_bytes(run.ranks, result["parameters"])
            rows.append([run.net, str(run.ranks), megabytes(result["sent"]), megabytes(ring)])
    print("Most bytes that a rank sends in a step, and the lower bound, which a ring meets")
    print_table(rows)


def print_model(net: str, model: Model) -> None:
    print(
        f"{net}: {milliseconds(model.fixed)} + {milliseconds(model.per_image)} for each image, "
        f"copying {milliseconds(model.copying)}, {1e9 * model.per_byte:.2f} ns for each byte sent"
    )
    rows = [["network", "ranks", "averaging", f"{EFFICIENCY:.0%} with", "that is"]]
    for network in NETWORKS:
        for ranks in 8, 64, 512:
            images = model.images_for(EFFICIENCY, ranks, network)
            rows.append(
                [network, str(ranks), milliseconds(model.averaging(ranks, network))]
                + [f"{images}/rank", f"batch {ranks * images}"]
            )
    print_table(rows)
    rows = [["network", "batch", "useful up to", "speed-up"]]
    for network in NETWORKS:
        for batch in 64, 256, 1024, 4096:
            ranks = model.last_useful_doubling(batch, network)
            speed_up = model.step(1, batch, network) / model.step(ranks, batch, network)
            rows.append([network, str(batch), f"{ranks} ranks", f"{speed_up:.1f}"])
    print_table(rows)


def milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.1f} ms"


def megabytes(count: float) -> str:
    return f"{count / 1e6:.3f} MB"


def print_table(rows: List[List[str]]) -> None:
    """The first row is the header."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        print("  " + "  ".join(cell.rjust(width) for cell, width in zip(row, widths)))
    print(flush=True)


if __name__ == "__main__":
    main()
