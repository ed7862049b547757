"""Inputs for a check: drawn at random, or loaded from a file."""

import re
from typing import Any, Mapping, Sequence, Union

import numpy as np

DRAWS = "normal, uniform, binary, labels:K"


def require_distribution(text: str) -> None:
    if not re.fullmatch("normal|uniform|binary|labels:[1-9][0-9]*", text):
        raise ValueError(f"{text!r} is no distribution; expected one of {DRAWS}")


def draw(distribution: str, shape: Sequence[int], random: np.random.RandomState) -> np.ndarray:
    """Random numbers: standard normal, uniform in [0, 1), 0 or 1, or a class out of K."""
    require_distribution(distribution)
    if distribution == "normal":
        return random.normal(size=shape)
    if distribution == "uniform":
        return random.uniform(size=shape)
    if distribution == "binary":
        return random.randint(2, size=shape)
    return random.randint(int(distribution.partition(":")[2]), size=shape)


def load(path: str) -> np.ndarray:
    """The array of FILE.npy or of FILE.npz:KEY."""
    path, _, key = path.partition(":")
    loaded = np.load(path, allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        return loaded
    if key not in loaded:
        raise ValueError(
            f"{path} has no array {key!r}; write {path}:KEY, with one of {loaded.files}"
        )
    return loaded[key]


def is_file(text: str) -> bool:
    return text.partition(":")[0].endswith((".npy", ".npz"))


def fill_inputs(net: Any, inputs: Mapping[str, Union[str, np.ndarray]], seed: int) -> None:
    """Writes the inputs, drawn or given, to the net's input blobs of these names."""
    random = np.random.RandomState(seed)
    for name, given in inputs.items():
        if name not in net.inputs:
            raise ValueError(f"the net has no input {name}; its inputs are {', '.join(net.inputs)}")
        shape = tuple(net.blobs[name].shape)
        array = draw(given, shape, random) if isinstance(given, str) else np.asarray(given)
        if array.shape != shape:
            raise ValueError(f"input {name} has shape {array.shape}; the net expects {shape}")
        net.blobs[name].data[...] = array
    if net.inputs and not any(net.blobs[name].data.any() for name in net.inputs):
        raise ValueError("the net's inputs are all zero: fill them, or pass inputs")
