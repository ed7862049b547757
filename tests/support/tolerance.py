"""How far from the float64 oracle a layer may be: its sums are exact to 1e-6, its terms to 1e-5.

Where terms cancel, each is right to its own size. Numbers below float32's smallest normal one are
not promised.
"""

from typing import Any, Callable, List, Tuple

import numpy as np

from support import oracle

Tolerance = Tuple[float, List[np.ndarray]]  # of the loss and of the gradients

SMALLEST = float(np.finfo(np.float32).tiny)


def largest(array: np.ndarray) -> float:
    """The largest absolute value."""
    return float(np.max(np.abs(oracle.float64(array))))


def of_answer(answer: oracle.Answer, *bottoms: np.ndarray, **parameters: Any) -> Tolerance:
    """Relative to the loss and to each element of the gradients: nothing cancels."""
    loss, gradients = answer
    errors = [1e-5 * np.abs(gradient) + SMALLEST for gradient in gradients]
    return 1e-6 * abs(loss) + SMALLEST * bottoms[0].size, errors


def of_cross_entropy(
    coefficients: Callable[..., Tuple[np.ndarray, np.ndarray]],
) -> Callable[..., Tolerance]:
    """Relative to both terms a sp(x) and b sp(-x): soft labels and negative weights cancel them."""

    def of_terms(answer: oracle.Answer, *bottoms: np.ndarray, **parameters: Any) -> Tolerance:
        if bottoms[0].size == 0:
            return of_answer(answer, *bottoms, **parameters)
        a, b = map(np.abs, coefficients(*bottoms, **parameters))
        # A weight or a sigmoid may be denormal, whatever it is multiplied with.
        x = oracle.batch_channel_position(bottoms[0])
        denormal = SMALLEST * (1 + a + b) * (1 + np.abs(x))
        loss = 1e-6 * oracle.cross_entropy(bottoms[0], a, b)[0] + denormal.sum()
        (terms,) = oracle.cross_entropy(bottoms[0], a, -b)[1]
        return loss, [1e-5 * terms + denormal.reshape(terms.shape)]

    return of_terms


def of_huber(answer: oracle.Answer, *bottoms: np.ndarray, **parameters: Any) -> Tolerance:
    """Relative, but where a product with a weight is denormal, whatever it is multiplied with."""
    loss, gradients = of_answer(answer, *bottoms, **parameters)
    if bottoms[0].size == 0:
        return loss, gradients
    distance = 1 + largest(bottoms[0]) + largest(bottoms[1])
    weight = 1 + sum(map(largest, bottoms[2:]))
    denormal = SMALLEST * distance**2 * weight
    return loss + denormal * bottoms[0].size, [error + denormal for error in gradients]


def of_smooth_l1(answer: oracle.Answer, *bottoms: np.ndarray, **parameters: Any) -> Tolerance:
    """As that of Huber; it is computed of what is scaled by sigma^2, and scaled back."""
    loss, gradients = of_huber(answer, *bottoms, **parameters)
    if bottoms[0].size == 0:
        return loss, gradients
    scale = parameters.get("sigma", 1) ** 2
    weights = [1 + largest(array) for array in bottoms[2:]]
    denormal = SMALLEST * max(scale, 1 / scale) ** 2 * float(np.prod(weights))
    return loss + denormal * bottoms[0].size, [error + denormal for error in gradients]


def of_focal(answer: oracle.Answer, *bottoms: np.ndarray, **parameters: Any) -> Tolerance:
    """Relative; a sum of powers of a long gamma has a few wrong digits more."""
    loss, gradients = of_answer(answer, *bottoms, **parameters)
    if bottoms[0].size == 0:
        return loss, gradients
    x = np.abs(oracle.float64(bottoms[0]))
    gamma = parameters.get("gamma", 2)
    exponent = np.minimum(104, gamma * oracle.softplus(x))
    weight = 1 + sum(map(largest, bottoms[2:]))
    denormal = SMALLEST * weight * (1 + gamma) * (1 + np.max(x))
    loss *= 1 + 0.06 * np.max(exponent)
    return loss + denormal * x.size, [error + denormal for error in gradients]


def of_sums(answer: oracle.Answer, *bottoms: np.ndarray, **parameters: Any) -> Tolerance:
    """Relative to the sum of all sizes, in float64: sums cancel before they are used."""
    loss, gradients = of_answer(answer, *bottoms, **parameters)
    total = sum(float(np.sum(np.abs(array), dtype=np.float64)) for array in bottoms)
    return loss + 1e-12 * total**2, [error + 1e-13 * total for error in gradients]
