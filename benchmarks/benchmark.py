"""How fast the layers are: against Caffe's native layers, the textbook formula and the memory.

Everything is measured side by side in one process, in rounds that visit all contestants in turn;
what is reported is the median of the rounds. `make bench` runs this.
"""

import argparse
import ctypes
import json
import os

# Threads that have nothing to do must not spin into the time of the next contestant.
os.environ["OPENBLAS_THREAD_TIMEOUT"] = "4"
os.environ["OMP_WAIT_POLICY"] = "passive"

import platform
import statistics
import sys
import time
import tracemalloc
from typing import Any, Callable, Dict, List

import caffe
import numpy as np
from tqdm import tqdm

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

from contestants import LOSSES, Contestant, contestants  # noqa: E402

from caffe_losses.__main__ import engine  # noqa: E402

PLOTTED_SIZES = [64, 1000, 10**4, 10**5, 10**6, 10**7, 10**8]
SIZES_TO_COMPARE = [round(1000 * 2 ** (step / 2)) for step in range(26)]  # to 5.8 million
Times = Dict[str, float]


def set_threads(count: int) -> None:
    """Lets the layers, OpenBLAS (and so Caffe) and PyTorch use that many threads."""
    os.environ["OMP_NUM_THREADS"] = str(count)
    try:
        ctypes.CDLL("libopenblas.so.0").openblas_set_num_threads(count)
    except (OSError, AttributeError):
        tqdm.write("no OpenBLAS here: Caffe's BLAS keeps its own number of threads")


def seconds(function: Callable[[], Any], repeats: int) -> float:
    """The time of one call, averaged over a few where one is short."""
    start = time.perf_counter()
    for _ in range(repeats):
        function()
    return (time.perf_counter() - start) / repeats


def measure(entries: Dict[str, Contestant], rounds: int) -> Times:
    """Median seconds of a forward and backward of each contestant."""
    samples: Dict[str, List[float]] = {name: [] for name in entries}
    repeats = {}
    for name, step in entries.items():
        step()  # the first one compiles, allocates and learns what is wanted
        repeats[name] = max(1, min(1000, int(0.1 / seconds(step, 1))))
    for _ in range(rounds):
        for name, step in entries.items():
            step()  # untimed: brings the contestant's own data into the cache
            samples[name].append(seconds(step, repeats[name]))
    return {name: statistics.median(times) for name, times in samples.items()}


def extra_memory(step: Contestant) -> int:
    """The most bytes that one forward and backward hold beyond what there was before."""
    tracemalloc.start()
    try:
        step()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def row(result: Dict[str, Any]) -> str:
    """A line of the table: nanoseconds an element, and how the others compare to the layer."""
    times, count = result["times"], int(np.prod(result["shape"]))
    ours = times["layer"]
    cells = ["x".join(map(str, result["shape"])), str(result["threads"])]
    cells += [f"{ours / count * 1e9:.2f}", f"{ours * 1e6:.0f}"]
    cells += [f"{times[name] / ours:.1f}" if name in times else "" for name in OTHERS]
    cells += [f"{ours / times[name]:.2f}" if name in times else "" for name in BESIDE]
    cells += [f"{ours / times[name]:.1f}" for name in ("floor", "fetching")]
    cells += [f"{result['extra_memory'] / 1e6:.2f}"]
    return "| " + " | ".join(cells) + " |"


OTHERS = ("Caffe", "textbook", "PyTorch")
BESIDE = ("cross-entropy", "Euclidean")  # other losses of this project, in the same turns
HEAD = [
    "shape",
    "threads",
    "layer ns/el",
    "layer us",
    *(f"{name} / layer" for name in OTHERS),
    *(f"layer / {name}" for name in BESIDE),
    "layer / floor",
    "layer / fetching",
    "extra MB",
]


def run(titles: List[str], rounds: int, threads: List[int]) -> List[Dict[str, Any]]:
    """The losses of these titles, in all their shapes and with these numbers of threads."""
    results = []
    total = sum(len(LOSSES[title].shapes) for title in titles) * len(threads)
    with tqdm(total=total, desc="measuring", disable=None) as progress:
        for title in titles:
            loss = LOSSES[title]
            tqdm.write(f"\n{title}\n| " + " | ".join(HEAD) + " |\n|" + "---|" * len(HEAD))
            for shape in loss.shapes:
                inputs = loss.draw(np.random.RandomState(0), shape)
                for count in threads:
                    set_threads(count)
                    entries = contestants(loss, inputs)
                    result = {
                        "loss": title,
                        "shape": shape,
                        "threads": count,
                        "times": measure(entries, rounds),
                        "extra_memory": extra_memory(entries["layer"]),
                    }
                    results.append(result)
                    tqdm.write(row(result))
                    progress.update()
    return results


def times_by_size(rounds: int) -> List[Dict[str, Any]]:
    """The weighted sigmoid cross-entropy from 64 elements to 10^8, on all threads."""
    loss = LOSSES["weighted sigmoid cross-entropy"]
    results = []
    for size in tqdm(PLOTTED_SIZES, desc="by size", disable=None):
        inputs = loss.draw(np.random.RandomState(0), (1, 1, size))
        entries = contestants(loss, inputs)
        del entries["fetching"]
        if size > 10**7:
            del entries["textbook"]
        results.append({"size": size, "times": measure(entries, 3 if size > 10**7 else rounds)})
    return results


def break_even(titles: List[str], rounds: int) -> None:
    """Prints the size of blob from which on a layer takes less time than Caffe's, within a step."""
    for title in titles:
        loss = LOSSES[title]
        channels = max(loss.shapes, key=np.prod)[1]
        for size in SIZES_TO_COMPARE:
            inputs = loss.draw(np.random.RandomState(0), (1, channels, size // channels, 1))
            entries = contestants(loss, inputs)
            times = measure({name: entries[name] for name in ("layer", "Caffe")}, rounds)
            if times["layer"] < times["Caffe"]:
                print(f"{title}: {size}", flush=True)
                break
        else:
            print(f"{title}: none up to {size}", flush=True)


# What the tables call the contestants, and their colors (Okabe and Ito's).
PLOTTED = {
    "Caffe": ("Caffe's SigmoidCrossEntropyLoss", "#D55E00"),
    "PyTorch": ("PyTorch's BCEWithLogitsLoss", "#CC79A7"),
    "textbook": ("the formula in plain NumPy", "#009E73"),
    "layer": ("SigmoidCrossEntropyWeightLossLayer", "#0072B2"),
    "floor": ("floor: reads both, writes the gradient", "#555555"),
}


def plot(by_size: List[Dict[str, Any]], threads: int, path: str) -> None:
    """The time of an element against the number of elements, log-log."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4.2))
    ends = {}
    for name, (_, color) in PLOTTED.items():
        points = [
            (result["size"], result["times"][name] / result["size"] * 1e9)
            for result in by_size
            if name in result["times"] and (name != "floor" or is_memory_bound(result["times"]))
        ]
        if points:
            style = "--" if name == "floor" else "-"
            axes.loglog(*zip(*points), style, marker="o", markersize=3.5, color=color)
            ends[name] = points[-1][1]
    for name, height in apart(ends).items():
        label, color = PLOTTED[name]
        axes.annotate(
            label,
            (1.02, height),
            xycoords=axes.get_yaxis_transform(),
            color=color,
            fontsize=9,
            va="center",
            annotation_clip=False,
        )
    axes.set(xlabel="elements of the blob", ylabel="ns an element, forward and backward")
    axes.set_title(
        f"Weighted sigmoid cross-entropy, {threads} thread{'s' * (threads > 1)}", fontsize=10
    )
    axes.grid(alpha=0.25)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.subplots_adjust(0.08, 0.12, 0.66, 0.92)
    figure.savefig(path, dpi=120)


def is_memory_bound(times: Times) -> bool:
    """Whether the floor is one: for a tiny blob it is the time of a call from Python."""
    return times["floor"] == min(times.values())


def apart(heights: Dict[str, float], factor: float = 2) -> Dict[str, float]:
    """The heights of labels on a logarithmic axis, moved up where they would overlap."""
    placed: Dict[str, float] = {}
    lowest = 0.0
    for name in sorted(heights, key=lambda name: heights[name]):
        placed[name] = max(heights[name], lowest)
        lowest = placed[name] * factor
    return placed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="of measuring (default: 9)")
    parser.add_argument("--json", default=os.path.join(ROOT, "build", "benchmark.json"))
    parser.add_argument("--plot", default=os.path.join(ROOT, "docs", "time-by-size.png"))
    parser.add_argument("--only", nargs="+", choices=list(LOSSES), metavar="LOSS", help="no plot")
    parser.add_argument(
        "--break-even",
        action="store_true",
        help="only the sizes from which on the layers are faster than Caffe's, on one thread",
    )
    arguments = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    print(f"Caffe {caffe.__version__}, {engine()}, {cores} cores, {platform.machine()}")
    if arguments.break_even:
        set_threads(1)
        break_even(arguments.only or list(LOSSES), arguments.rounds)
        return
    results = run(arguments.only or list(LOSSES), arguments.rounds, sorted({1, cores}))
    if not arguments.only:
        set_threads(cores)
        by_size = times_by_size(arguments.rounds)
        plot(by_size, cores, arguments.plot)
        os.makedirs(os.path.dirname(arguments.json), exist_ok=True)
        with open(arguments.json, "w") as file:
            json.dump({"losses": results, "by_size": by_size}, file, indent=1)
        print(f"\nwritten: {arguments.json} and {arguments.plot}", flush=True)
    if "torch" in sys.modules:
        os._exit(0)  # a thread of PyTorch 1.7 aborts a process that ends in the ordinary way


if __name__ == "__main__":
    main()
