"""The softmax over channels: of arrays, and row by row of positions for compiled loops.

The class with the largest score is the top one. A probability near 1 is that of the top class, and
what it lacks of 1 is worked out from the others, so that it is right however small it is.
"""

from typing import Any, Tuple

import numpy as np

from caffe_losses.elementary import ONE, ZERO, exp, where
from caffe_losses.loops.rows import fill

# Of arrays (n, C, s)


def softmax(x: np.ndarray) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The probabilities of each class and of all others, and which class has the largest score."""
    is_top = np.arange(x.shape[1])[:, np.newaxis] == x.argmax(1)[:, np.newaxis]
    e = np.exp(x - x.max(1, keepdims=True))
    rest = np.where(is_top, ZERO, e).sum(1, keepdims=True)
    others = np.where(is_top, rest, ONE + (rest - e))
    return e / (ONE + rest), others / (ONE + rest), is_top


def through_softmax(h: np.ndarray, p: np.ndarray, is_top: np.ndarray) -> np.ndarray:
    """The gradient to the scores, of that to the probabilities; see `take_through_softmax`."""
    h = h - np.where(is_top, h, ZERO).sum(1, keepdims=True)
    return p * (h - (p * h).sum(1, keepdims=True))


# Of rows


def exponentials(
    e: np.ndarray,
    largest: np.ndarray,
    top: np.ndarray,
    rest: np.ndarray,
    score: np.ndarray,
    image: int,
    here: slice,
) -> None:
    """Sets e (C rows, one after the other) to e^(x - largest x) of each class.

    `top` becomes the class of the largest score, `rest` the sum of the exponentials of all others;
    that of the top class is 1.
    """
    size = largest.size
    fill(largest, -np.float32(np.inf))
    fill(top, ZERO)
    fill(rest, ZERO)
    for channel in range(score.shape[1]):
        x = score[image, channel, here]
        mark_top(top, x, largest, np.float32(channel))
        raise_to(largest, x)
    for channel in range(score.shape[1]):
        row = e[channel * size : (channel + 1) * size]
        set_exponential(row, score[image, channel, here], largest)
        add_unless_top(rest, row, top, np.float32(channel))


def mark_top(top: np.ndarray, x: np.ndarray, largest: np.ndarray, channel: Any) -> None:
    """Sets the top class to this one where its score is larger than those before."""
    for i in range(top.size):
        top[i] = where(x[i] > largest[i], channel, top[i])


def raise_to(largest: np.ndarray, x: np.ndarray) -> None:
    """Sets each to the larger of the two."""
    for i in range(largest.size):
        largest[i] = where(x[i] > largest[i], x[i], largest[i])


def set_exponential(e: np.ndarray, x: np.ndarray, largest: np.ndarray) -> None:
    """Sets each to e^(x - largest)."""
    for i in range(e.size):
        e[i] = exp(x[i] - largest[i])


def add_unless_top(rest: np.ndarray, e: np.ndarray, top: np.ndarray, channel: Any) -> None:
    """Adds the exponentials of a class where it is not the top one."""
    for i in range(rest.size):
        rest[i] = rest[i] + where(top[i] == channel, ZERO, e[i])


def set_probabilities(
    p: np.ndarray, q: np.ndarray, rest: np.ndarray, top: np.ndarray, channel: Any
) -> None:
    """Makes of the exponentials in p the probabilities of a class, and of all others in q."""
    for i in range(p.size):
        others = where(top[i] == channel, rest[i], ONE + (rest[i] - p[i]))
        q[i] = others / (ONE + rest[i])
    for i in range(p.size):
        p[i] = p[i] / (ONE + rest[i])


def take_through_softmax(
    gradient: np.ndarray,
    p: np.ndarray,
    top: np.ndarray,
    of_top: np.ndarray,
    mean: np.ndarray,
    image: int,
    here: slice,
) -> None:
    """Makes of the gradient h to the probabilities that to the scores, p_c (h_c - sum_k p_k h_k).

    h counts from that of the top class: where its probability is nearly 1 nothing cancels.
    """
    size = top.size
    fill(of_top, ZERO)
    fill(mean, ZERO)
    for channel in range(gradient.shape[1]):
        add_if_top(of_top, gradient[image, channel, here], top, np.float32(channel))
    for channel in range(gradient.shape[1]):
        row = p[channel * size : (channel + 1) * size]
        add_to_mean(mean, row, gradient[image, channel, here], of_top)
    for channel in range(gradient.shape[1]):
        row = p[channel * size : (channel + 1) * size]
        subtract_mean(gradient[image, channel, here], row, of_top, mean)


def add_if_top(of_top: np.ndarray, h: np.ndarray, top: np.ndarray, channel: Any) -> None:
    """Sets each to h where the class is the top one."""
    for i in range(of_top.size):
        of_top[i] = where(top[i] == channel, h[i], of_top[i])


def add_to_mean(mean: np.ndarray, p: np.ndarray, h: np.ndarray, of_top: np.ndarray) -> None:
    """Adds p (h - h of the top class)."""
    for i in range(mean.size):
        mean[i] = mean[i] + p[i] * (h[i] - of_top[i])


def subtract_mean(h: np.ndarray, p: np.ndarray, of_top: np.ndarray, mean: np.ndarray) -> None:
    """Sets each to p (h - h of the top class - mean)."""
    for i in range(h.size):
        h[i] = p[i] * ((h[i] - of_top[i]) - mean[i])
