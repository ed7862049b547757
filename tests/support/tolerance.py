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
    """Relative; the power of a gamma of many digits, or of a large one, loses a few digits."""
    loss, gradients = of_answer(answer, *bottoms, **parameters)
    if bottoms[0].size == 0:
        return loss, gradients
    x = np.abs(oracle.float64(bottoms[0]))
    gamma = parameters.get("gamma", 2)
    weight = 1 + sum(map(largest, bottoms[2:]))
    denormal = SMALLEST * weight * (1 + gamma) * (1 + np.max(x))
    is_exact = gamma <= 5 and 8 * gamma % 1 == 0
    loss *= 1 if is_exact else 2 + gamma / 5
    return loss + denormal * x.size, [error + denormal for error in gradients]


def of_sums(answer: oracle.Answer, *bottoms: np.ndarray, **parameters: Any) -> Tolerance:
    """Relative to the sum of all sizes, in float64: sums cancel before they are used."""
    loss, gradients = of_answer(answer, *bottoms, **parameters)
    total = sum(float(np.sum(np.abs(array), dtype=np.float64)) for array in bottoms)
    return loss + 1e-12 * total**2, [error + 1e-13 * total for error in gradients]


def of_softmax(answer: oracle.Answer, *bottoms: np.ndarray, **parameters: Any) -> Tolerance:
    """Relative to the terms s_c (-ln p_c): label smoothing and negative weights cancel them."""
    if bottoms[0].size == 0:
        return of_answer(answer, *bottoms, **parameters)
    return of_coefficients(
        oracle.softmax_coefficients(*bottoms, **parameters), bottoms[0], parameters.get("axis", 1)
    )


def of_coefficients(s: np.ndarray, score: np.ndarray, axis: int) -> Tolerance:
    """Relative to the terms s_c (-ln p_c), with s for each position and class."""
    s = np.abs(s)
    total = s.sum(axis=1, keepdims=True)
    entropy = oracle.minus_log_softmax(oracle.positions(score, axis))
    terms = (total - s) * np.exp(-entropy) - s * np.expm1(-entropy)
    denormal = SMALLEST * (1 + total) * np.ones(s.shape)
    errors = oracle.axis_put_back(1e-5 * terms + denormal, score, axis)
    return 1e-6 * float(np.sum(s * entropy)) + float(denormal.sum()), [errors]


def of_softmax_focal(
    answer: oracle.Answer, *bottoms: np.ndarray, gamma: float = 2, **parameters: Any
) -> Tolerance:
    """Relative to each element of the gradient and to each term of the loss."""
    loss, errors = of_answer(answer, *bottoms)
    if bottoms[0].size == 0:
        return loss, errors
    s, y = oracle.focal_coefficients(*bottoms, **parameters)
    x = oracle.positions(bottoms[0], parameters.get("axis", 1))
    entropy = oracle.minus_log_softmax(x)[np.arange(len(y)), y]
    # A probability may be denormal, whatever it is multiplied with.
    denormal = SMALLEST * (1 + np.abs(s).max()) * (1 + gamma) * (1 + entropy.max())
    terms = float(np.sum(np.abs(s) * oracle.focal(entropy, gamma)))
    power = max(1, gamma / 5)  # what a power makes of the last digits of its base
    return 1e-6 * power * terms + denormal * len(y), [power * e + denormal for e in errors]


def of_ohem(answer: oracle.Answer, *bottoms: np.ndarray, **parameters: Any) -> Tolerance:
    """Which positions are kept of those that are about equally hard is left open."""
    if bottoms[0].size == 0:
        return of_answer(answer, *bottoms)
    axis, ignore_label, label_smoothing = (parameters.pop(*default) for default in OHEM_DEFAULTS)
    score, label, weight = (*bottoms, None)[:3]
    y, entropy, u = oracle.ohem_positions(score, label, weight, axis, ignore_label)
    kept = oracle.ohem_choice(y, entropy, u, **parameters)
    s = u[:, np.newaxis] * oracle.smoothed(y, score.shape[axis], label_smoothing)
    s /= max(1, len(kept))
    open_to_choice = np.zeros(len(y), bool)
    for p in [p for p in range(len(y)) if u[p] and p not in kept]:
        equals = [k for k in kept if abs(entropy[k] - entropy[p]) <= 1e-5 * (1 + entropy[p])]
        open_to_choice[[p] * bool(equals) + equals] = True
    near = np.abs(np.exp(-entropy) - parameters.get("thresh", -1)) <= 1e-5
    open_to_choice |= near
    is_used = open_to_choice | np.isin(np.arange(len(y)), list(kept))
    loss, (errors,) = of_coefficients(s * is_used[:, np.newaxis], score, axis)
    size = np.abs(s).sum(axis=1, keepdims=True) * open_to_choice[:, np.newaxis]
    ties = oracle.axis_put_back(np.repeat(size, score.shape[axis], axis=1), score, axis)
    values = np.abs(s) * oracle.minus_log_softmax(oracle.positions(score, axis))
    is_same = not (np.ptp(u) or near.any() or label_smoothing)  # whichever is kept
    spread = 0 if is_same else float(np.sum(values[open_to_choice]))
    return loss + spread, [errors + 2 * ties]


OHEM_DEFAULTS = [("axis", 1), ("ignore_label", None), ("label_smoothing", 0)]


def of_overlap(answer: oracle.Answer, *bottoms: np.ndarray, **parameters: Any) -> Tolerance:
    """Relative to the loss and to the largest element of the gradient.

    Where sums of probabilities may cancel or are made of tiny numbers alone nothing is promised.
    """
    loss, (gradient,) = answer
    prediction, label, *weights = bottoms
    if prediction.size == 0:
        return of_answer(answer, *bottoms)
    are_probabilities = prediction.min() >= 0 and prediction.max() <= 1
    is_positive = all(weight.min() >= 0 for weight in weights)
    if not is_positive or not (are_probabilities or parameters.get("activation", "none") != "none"):
        return np.inf, [np.full(gradient.shape, np.inf)]
    if parameters.get("smooth", 1) < 1e-20:
        return np.inf, [np.full(gradient.shape, np.inf)]
    gamma = parameters.get("gamma", 1)
    largest = np.abs(gradient).max() + SMALLEST * (1 + sum(weight.max() for weight in weights))
    error = (1 + gamma) * (1e-5 * np.abs(gradient) + 2e-6 * largest)
    if np.any((label > 0) & (label < 1)):  # what a soft label adds and takes away may cancel
        error = error + 1e-6 / parameters.get("smooth", 1)
    return (1 + gamma) * 1e-6 * abs(loss) + SMALLEST, [error]


def of_ranks(
    answer: oracle.Answer,
    score: np.ndarray,
    label: np.ndarray,
    per_image: bool = False,
    **parameters: Any,
) -> Tolerance:
    """Errors that are equal but for rounding may have any order among themselves.

    Each is multiplied by some part of the step that the Jaccard loss makes over all of them.
    """
    loss, errors = of_answer(answer, score)
    if score.size == 0:
        return loss, errors
    x = oracle.batch_channel_position(score)
    p = oracle.softmax(x)
    q = oracle.others(x)
    t = label.reshape(len(x), 1, -1)
    step = np.zeros(x.shape)
    for images in oracle.groups_of(x.shape, per_image):
        for c in range(x.shape[1]):
            is_positive = t[images, 0] == c
            error = np.where(is_positive, q[images, c], p[images, c])
            step[images, c] = steps_of_ties(error, is_positive)
    # The derivative of a probability, |dp_c / dx_k| <= p_c (1 if c is k, else p_k).
    terms = p * (step + np.sum(p * step, axis=1, keepdims=True))
    largest = np.abs(answer[1][0]).max()
    return loss + 1e-6 * abs(answer[0]), [errors[0] + 2e-6 * largest + terms.reshape(score.shape)]


def steps_of_ties(error: np.ndarray, is_positive: np.ndarray) -> np.ndarray:
    """For each error that nearly equals another one an upper bound of its factor; else 0."""
    flat = error.ravel()
    order = np.argsort(-flat)
    ordered = flat[order]
    near = ordered[:-1] - ordered[1:] <= 1e-6 * ordered[:-1]
    tied = np.append(near, False) | np.append(False, near)
    step = np.zeros(flat.size)
    # No step is larger than 1 / union, which is at least the rank or the number of positives.
    union = np.maximum(1, is_positive.sum())
    step[order] = np.where(tied, 1 / union, 0)
    return step.reshape(error.shape)
