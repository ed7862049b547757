"""The losses in float64, written to be compared with their formulas line by line.

Slow and plain on purpose, and independent: nothing here comes from caffe_losses. Every function
takes arrays in the blobs' own shapes and returns the loss and the gradients to the bottoms that
have one, for a loss_weight of 1. x is the prediction or score, t the target or label, w a weight,
N the length of axis 0 (1 without axes), C that of axis 1.
"""

import functools
import math
from typing import Any, Callable, List, Optional, Set, Tuple

import numpy as np

Answer = Tuple[float, List[np.ndarray]]


def euclidean(prediction: np.ndarray, target: np.ndarray) -> Answer:
    """L = 1/(2N) sum (x - t)^2."""
    x, t = float64(prediction), float64(target).reshape(prediction.shape)
    N = batch_size(prediction)
    if x.size == 0:
        return nothing(prediction, target)
    loss = np.sum((x - t) ** 2) / (2 * N)
    return float(loss), opposite((x - t) / N, target)


def channel_sum_euclidean(
    prediction: np.ndarray, target: np.ndarray, axis: int = 1, reduce: str = "axis"
) -> Answer:
    """L = 1/(2N) sum (s(x) - s(t))^2, s being the sum over an axis, or over it and all after it."""
    if prediction.size == 0:
        return nothing(prediction, target)
    first = axis % prediction.ndim
    axes = (first,) if reduce == "axis" else tuple(range(first, prediction.ndim))
    N = batch_size(prediction)
    difference = float64(prediction).sum(axis=axes, keepdims=True)
    difference = difference - float64(target).sum(axis=axes, keepdims=True)
    loss = np.sum(difference**2) / (2 * N)
    return float(loss), opposite(np.broadcast_to(difference / N, prediction.shape), target)


def weighted_euclidean(
    prediction: np.ndarray,
    target: np.ndarray,
    mask: Optional[np.ndarray] = None,
    balance: str = "image",
    normalization: str = "WEIGHT",
) -> Answer:
    """L = 1/2 sum s (x - t)^2, where s is w divided by what the normalization says."""
    if prediction.size == 0:
        return nothing(prediction, target)
    x, t = batch_channel_position(prediction), batch_channel_position(target, prediction)
    if mask is None:
        mask = np.any(t != 0, axis=1, keepdims=True)
    s = balanced_weights(mask, x.shape, balance, normalization)
    loss = np.sum(s * (x - t) ** 2) / 2
    return float(loss), opposite((s * (x - t)).reshape(prediction.shape), target)


def huber(
    prediction: np.ndarray,
    target: np.ndarray,
    weight: Optional[np.ndarray] = None,
    delta: float = 1,
    balance: str = "none",
    normalization: str = "WEIGHT",
) -> Answer:
    """L = sum s h(x - t): h(d) is d^2 / 2 up to delta, delta (|d| - delta / 2) beyond."""
    if prediction.size == 0:
        return nothing(prediction, target)
    d = batch_channel_position(prediction) - batch_channel_position(target, prediction)
    s = huber_weights(prediction, target, weight, balance, normalization)
    beyond = np.abs(d) > delta
    h = np.where(beyond, delta * (np.abs(d) - delta / 2), d**2 / 2)
    slope = np.where(beyond, delta * np.sign(d), d)
    return float(np.sum(s * h)), opposite((s * slope).reshape(prediction.shape), target)


def huber_weights(
    prediction: np.ndarray,
    target: np.ndarray,
    weight: Optional[np.ndarray] = None,
    balance: str = "none",
    normalization: str = "WEIGHT",
) -> np.ndarray:
    """s: balanced weights of a mask, or the weights themselves, divided by the normalization."""
    shape = batch_channel_position(prediction).shape
    if balance != "none":
        if weight is None:
            t = batch_channel_position(target, prediction)
            weight = np.any(t != 0, axis=1, keepdims=True)
        return balanced_weights(weight, shape, balance, normalization)
    w = np.zeros(shape) + (1 if weight is None else for_each_element(weight, shape))
    if normalization != "WEIGHT":
        return w / divisor(normalization, len(w), w.size, w.size)
    total = len(w) * w.sum(axis=(1, 2), keepdims=True)
    return w / np.where(total > 0, total, 1)


def smooth_l1(
    prediction: np.ndarray,
    target: np.ndarray,
    inside_weight: Optional[np.ndarray] = None,
    outside_weight: Optional[np.ndarray] = None,
    sigma: float = 1,
    normalization: str = "BATCH_SIZE",
) -> Answer:
    """L = sum v f(w d) / divisor, f(u) = (sigma u)^2 / 2 to 1/sigma^2, |u| - 1/2/sigma^2 beyond."""
    if prediction.size == 0:
        return nothing(prediction, target)
    d = batch_channel_position(prediction) - batch_channel_position(target, prediction)
    w, v = (
        np.ones(d.shape) if weight is None else for_each_element(weight, d.shape)
        for weight in (inside_weight, outside_weight)
    )
    u = w * d
    beyond = np.abs(u) > 1 / sigma**2
    f = np.where(beyond, np.abs(u) - 0.5 / sigma**2, (sigma * u) ** 2 / 2)
    slope = np.where(beyond, np.sign(u), sigma**2 * u)
    v = v / divisor(normalization, len(d), d.size, d.size)
    return float(np.sum(v * f)), opposite((v * w * slope).reshape(prediction.shape), target)


def sigmoid_focal(
    score: np.ndarray,
    label: np.ndarray,
    weight: Optional[np.ndarray] = None,
    alpha: Optional[float] = 0.25,
    gamma: float = 2,
    normalization: str = "VALID",
    ignore_label: Optional[float] = None,
) -> Answer:
    """L = sum v alpha_t (1 - p)^gamma (-ln p) / divisor, p being the probability of the label."""
    if score.size == 0:
        return nothing(score)
    x, t = batch_channel_position(score), batch_channel_position(label, score)
    a = focal_weights(score, label, weight, alpha, normalization, ignore_label)
    sign = np.where(t > 0, 1, -1)
    p, others = sigmoid(sign * x), sigmoid(-sign * x)
    minus_log_p = softplus(-sign * x)
    # (1 - p)^gamma; sp is -ln(1 - p)
    modulation = np.exp(-gamma * softplus(sign * x))
    slope = -modulation * (gamma * p * minus_log_p + others) * sign
    return float(np.sum(a * modulation * minus_log_p)), [(a * slope).reshape(score.shape)]


def focal_weights(
    score: np.ndarray,
    label: np.ndarray,
    weight: Optional[np.ndarray] = None,
    alpha: Optional[float] = 0.25,
    normalization: str = "VALID",
    ignore_label: Optional[float] = None,
) -> np.ndarray:
    """v alpha_t / divisor, 0 where the label is ignored."""
    t = batch_channel_position(label, score)
    valid = t >= 0
    if ignore_label is not None:
        valid &= t != np.float32(ignore_label)
    positive = valid & (t > 0)
    of_positive, of_negative = (1, 1) if alpha is None else (alpha, 1 - alpha)
    v = np.ones(t.shape) if weight is None else for_each_element(weight, t.shape)
    v = v * valid * np.where(t > 0, of_positive, of_negative)
    if normalization == "POSITIVE":
        return v / max(1, np.count_nonzero(positive))
    if normalization == "WEIGHT":
        return v / (v.sum() or 1)
    return v / divisor(normalization, len(t), t.size, np.count_nonzero(valid))


def weighted_sigmoid_cross_entropy(
    score: np.ndarray, label: np.ndarray, balance: str = "image", normalization: str = "WEIGHT"
) -> Answer:
    """L = sum s (t sp(-x) + (1 - t) sp(x)), where s is w divided by what the normalization says."""
    if score.size == 0:
        return nothing(score)
    return cross_entropy(score, *balanced_coefficients(score, label, balance, normalization))


def sigmoid_cross_entropy_weight(
    score: np.ndarray,
    label: np.ndarray,
    weight: Optional[np.ndarray] = None,
    cls_weight: Any = 1,
    normalization: str = "NONE",
    ignore_label: Optional[float] = None,
) -> Answer:
    """L = sum v [w t sp(-x) + (1 - t) sp(x)] / divisor, v being the weight of each element."""
    if score.size == 0:
        return nothing(score)
    coefficients = weighted_coefficients(
        score, label, weight, cls_weight, normalization, ignore_label
    )
    return cross_entropy(score, *coefficients)


def dice(
    prediction: np.ndarray,
    label: np.ndarray,
    weight: Optional[np.ndarray] = None,
    squared: bool = False,
    smooth: float = 1,
    **settings: Any,
) -> Answer:
    """L = mean of 1 - S over groups, S = (2 sum u p g + s) / (sum u p^k + sum u g^k + s)."""

    def of_groups(
        p: np.ndarray, q: np.ndarray, g: np.ndarray, u: np.ndarray
    ) -> Tuple[np.ndarray, np.ndarray]:
        k = 2 if squared else 1
        D = of_group(u * p**k) + of_group(u * g**k) + smooth
        # 1 - S without the difference of numbers that are nearly equal.
        errors = (p * (1 - g) - q * g) ** 2 if squared else p * (1 - g) + q * g
        L, S = quotient(of_group(u * errors), D), quotient(2 * of_group(u * p * g) + smooth, D)
        return L, quotient(-u * (2 * g - S * k * p ** (k - 1)), D)

    return mean_over_groups(of_groups, prediction, label, weight, **settings)


def tversky(
    prediction: np.ndarray,
    label: np.ndarray,
    weight: Optional[np.ndarray] = None,
    alpha: float = 0.5,
    beta: float = 0.5,
    gamma: float = 1,
    smooth: float = 1,
    **settings: Any,
) -> Answer:
    """L = mean of (1 - T)^gamma over groups, T = (TP + s) / (TP + alpha FP + beta FN + s)."""

    def of_groups(
        p: np.ndarray, q: np.ndarray, g: np.ndarray, u: np.ndarray
    ) -> Tuple[np.ndarray, np.ndarray]:
        TP, FP, FN = of_group(u * p * g), of_group(u * p * (1 - g)), of_group(u * q * g)
        D = TP + alpha * FP + beta * FN + smooth
        distance = quotient(alpha * FP + beta * FN, D)
        T = quotient(TP + smooth, D)
        L, slope = bounded_power(distance, gamma)
        dT = quotient(g * (distance + T * beta) - T * alpha * (1 - g), D)
        return L, -slope * u * dT

    return mean_over_groups(of_groups, prediction, label, weight, **settings)


def of_group(terms: np.ndarray) -> np.ndarray:
    """The sums over images and positions."""
    return terms.sum(axis=(0, 2), keepdims=True)


def quotient(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a / b, and 0 where b is 0."""
    return np.where(b == 0, 0, a / np.where(b == 0, 1, b))


@functools.partial(np.vectorize, otypes=[float, float])
def bounded_power(z: float, gamma: float) -> Tuple[float, float]:
    """z^gamma and its slope; below 1e-4 a z + b z^2 where the slope would grow without bound."""
    end = 1e-4
    if gamma == 1:
        return z, 1.0
    if gamma < 1 and z < end:
        a, b = np.linalg.solve(
            [[end, end**2], [1, 2 * end]], [end**gamma, gamma * end ** (gamma - 1)]
        )
        return a * z + b * z**2, a + 2 * b * z
    z = np.float64(max(z, 0))  # Python's own powers raise an error where they overflow
    return z**gamma, gamma * z ** (gamma - 1)


def mean_over_groups(
    of_groups: Callable[..., Tuple[np.ndarray, np.ndarray]],
    prediction: np.ndarray,
    label: np.ndarray,
    weight: Optional[np.ndarray] = None,
    activation: str = "none",
    reduce: str = "batch",
    class_weight: Any = 1,
    ignore_label: Optional[float] = None,
    background: bool = True,
) -> Answer:
    """The mean over channels, weighted, and images of a loss of p, q = 1 - p, g and the weights u.

    `of_groups` gives the losses of channels and their gradients to p.
    """
    if prediction.size == 0:
        return nothing(prediction)
    x = batch_channel_position(prediction)
    N, C, S = x.shape
    g, valid = one_hot(label, x.shape, ignore_label)
    if activation == "softmax":
        valid = valid.all(axis=1, keepdims=True)
    u = valid * (np.ones(x.shape) if weight is None else for_each_element(weight, x.shape))
    p = {"none": float64, "sigmoid": sigmoid, "softmax": softmax}[activation](x)
    q = {"none": lambda x: 1 - x, "sigmoid": lambda x: sigmoid(-x), "softmax": others}[activation](
        x
    )
    w = np.ones((1, C, 1)) * np.reshape(class_weight, (1, -1, 1))
    w[:, : 0 if background else 1] = 0
    groups = [slice(N)] if reduce == "batch" else [slice(n, n + 1) for n in range(N)]
    share = w / ((w.sum() or 1) * len(groups))
    loss, h = 0.0, np.zeros(x.shape)
    for images in groups:
        losses, gradients = of_groups(p[images], q[images], g[images], u[images])
        loss += np.sum(share * losses)
        h[images] = share * gradients
    if activation == "sigmoid":
        h *= sigmoid(x) * sigmoid(-x)
    if activation == "softmax":
        h = through_softmax(h, p)
    return float(loss), [h.reshape(prediction.shape)]


def one_hot(
    label: np.ndarray, shape: Tuple[int, int, int], ignore_label: Optional[float]
) -> Tuple[np.ndarray, np.ndarray]:
    """The label of each element, made of class numbers where it has those, and which count."""
    t = for_each_element(label, shape)
    valid = np.ones(t.shape, dtype=bool)
    if ignore_label is not None:
        valid = t != np.float32(ignore_label)
    if t.shape != shape:
        t = 1.0 * (t == np.arange(shape[1]).reshape(1, -1, 1))
    return np.where(valid, t, 0), valid


def softmax(x: np.ndarray) -> np.ndarray:
    with np.errstate(under="ignore"):
        e = np.exp(x - x.max(axis=1, keepdims=True))
        return e / e.sum(axis=1, keepdims=True)


def others(x: np.ndarray) -> np.ndarray:
    """The sum of the softmax over all other channels."""
    p = softmax(x)
    if p.shape[1] > 50:
        return p.sum(axis=1, keepdims=True) - p
    return np.stack([np.delete(p, c, axis=1).sum(axis=1) for c in range(p.shape[1])], axis=1)


def through_softmax(h: np.ndarray, p: np.ndarray) -> np.ndarray:
    """p_c sum_k p_k (h_c - h_k), in which nothing cancels but what must, where C is small."""
    if p.shape[1] > 50:
        return p * (h - np.sum(p * h, axis=1, keepdims=True))
    difference = h[:, :, np.newaxis] - h[:, np.newaxis]
    with np.errstate(under="ignore"):
        return p * np.sum(p[:, np.newaxis] * difference, axis=2)


def lovasz_hinge(
    score: np.ndarray,
    label: np.ndarray,
    per_image: bool = True,
    ignore_label: Optional[float] = None,
) -> Answer:
    """The mean over images and channels of the Lovasz extension of the Jaccard loss of hinges."""
    if score.size == 0:
        return nothing(score)
    x, t = batch_channel_position(score), batch_channel_position(label, score)
    valid = np.ones(x.shape, bool) if ignore_label is None else t != np.float32(ignore_label)
    groups = groups_of(x.shape, per_image)
    loss, gradient = 0.0, np.zeros(x.shape)
    for images in groups:
        for c in range(x.shape[1]):
            one = (images, c)
            sign = np.where(t[one] == 1, 1, -1)
            share = 1 / (len(groups) * x.shape[1])
            value, derivative = lovasz_extension(sign * x[one], 1, t[one] == 1, valid[one])
            loss += share * value
            gradient[one] = -share * sign * derivative
    return float(loss), [gradient.reshape(score.shape)]


def lovasz_softmax(
    score: np.ndarray,
    label: np.ndarray,
    per_image: bool = False,
    classes: str = "present",
    ignore_label: Optional[float] = None,
) -> Answer:
    """The mean over classes of the Lovasz extension of the Jaccard loss of |one-hot - p|."""
    if score.size == 0:
        return nothing(score)
    x = batch_channel_position(score)
    N, C, S = x.shape
    t = label.reshape(N, S)
    valid = np.ones(t.shape, bool) if ignore_label is None else t != np.float32(ignore_label)
    p = softmax(x)
    q = others(x)
    groups = groups_of(x.shape, per_image)
    loss, h = 0.0, np.zeros(x.shape)
    for images in groups:
        present = np.unique(t[images][valid[images]]).astype(int)
        chosen = range(C) if classes == "all" else present
        for c in chosen:
            share = 1 / (len(groups) * len(chosen))
            is_of_class = (t[images] == c) & valid[images]
            error = np.where(is_of_class, q[images, c], p[images, c])
            value, derivative = lovasz_extension(-error, 0, is_of_class, valid[images])
            loss += share * value
            h[images, c] = share * np.where(is_of_class, -derivative, derivative)
    return float(loss), [through_softmax(h, p).reshape(score.shape)]


def groups_of(shape: Tuple[int, int, int], per_image: bool) -> List[slice]:
    """The images whose errors are sorted together."""
    return [slice(n, n + 1) for n in range(shape[0])] if per_image else [slice(shape[0])]


def lovasz_extension(
    margin: np.ndarray, largest: float, positive: np.ndarray, valid: np.ndarray
) -> Tuple[float, np.ndarray]:
    """Berman's definition: sum max(e, 0) dJ over descending errors, and the factor of each error.

    e is `largest` - margin. J_i is 1 - intersection / union of the mask and one that is wrong in
    the first i elements. The order is that of the margins: those that are tiny make equal errors.
    """
    e, is_positive = largest - margin[valid], positive[valid]
    order = np.argsort(margin[valid], kind="stable")
    intersection = is_positive.sum() - is_positive[order].cumsum()
    union = is_positive.sum() + (~is_positive[order]).cumsum()
    jaccard = 1 - intersection / union
    factor = np.zeros(e.size)
    factor[order] = jaccard
    factor[order[1:]] -= jaccard[:-1]
    factor[e <= 0] = 0
    of_all = np.zeros(margin.shape)
    of_all[valid] = factor
    return float(np.sum(e * factor)), of_all


def cross_entropy(score: np.ndarray, negative: np.ndarray, positive: np.ndarray) -> Answer:
    """L = sum a sp(x) + b sp(-x), for the coefficients a of the negative and b of the positive."""
    x = batch_channel_position(score)
    loss = np.sum(negative * softplus(x) + positive * softplus(-x))
    gradient = negative * sigmoid(x) - positive * sigmoid(-x)
    return float(loss), [gradient.reshape(score.shape)]


def weighted_softmax_with_loss(
    score: np.ndarray, label: np.ndarray, weight: Optional[np.ndarray] = None, **parameters: Any
) -> Answer:
    """L = sum s_c (-ln p_c), with what softmax_coefficients gives for s."""
    if score.size == 0:
        return nothing(score)
    s = softmax_coefficients(score, label, weight, **parameters)
    return softmax_cross_entropy(score, s, parameters.get("axis", 1))


def softmax_cross_entropy(score: np.ndarray, s: np.ndarray, axis: int) -> Answer:
    """L = sum s_c (-ln p_c), with s for each position and class."""
    entropy = minus_log_softmax(positions(score, axis))
    # Of s_c (-ln p_c) it is s_c (p_c - 1) to x_c and s_c p_k to another x_k.
    gradient = s * np.expm1(-entropy) + (s.sum(axis=1, keepdims=True) - s) * np.exp(-entropy)
    return float(np.sum(s * entropy)), [axis_put_back(gradient, score, axis)]


def smoothed(y: np.ndarray, K: int, label_smoothing: float) -> np.ndarray:
    """q_c = (1 - e) [c = y] + e / K for each position and class."""
    q = np.full((len(y), K), label_smoothing / K)
    q[np.arange(len(y)), y] += 1 - label_smoothing
    return q


def softmax_coefficients(
    score: np.ndarray,
    label: np.ndarray,
    weight: Optional[np.ndarray] = None,
    class_weight: Any = 1,
    ignore_label: Optional[float] = None,
    axis: int = 1,
    label_smoothing: float = 0,
    normalization: str = "WEIGHT",
) -> np.ndarray:
    """s_c = u w_c q_c / D for each position and class."""
    K = score.shape[axis]
    y, valid = class_numbers(label, K, ignore_label)
    u = valid * (1.0 if weight is None else float64(weight).ravel())
    w = np.broadcast_to(float64(class_weight), (K,))
    q = smoothed(y, K, label_smoothing)
    D = softmax_divisor(score, axis, normalization, valid, y, np.sum(u * w[y]))
    return u[:, np.newaxis] * w * q / D


def softmax_focal(
    score: np.ndarray,
    label: np.ndarray,
    weight: Optional[np.ndarray] = None,
    gamma: float = 2,
    axis: int = 1,
    **parameters: Any,
) -> Answer:
    """L = sum s (1 - p_y)^gamma (-ln p_y), with what focal_coefficients gives for s."""
    if score.size == 0:
        return nothing(score)
    x = positions(score, axis)
    s, y = focal_coefficients(score, label, weight, axis=axis, **parameters)
    at_label = np.arange(len(y)), y
    entropy = minus_log_softmax(x)[at_label]
    p, rest = np.exp(-entropy), -np.expm1(-entropy)
    loss = np.sum(s * focal(entropy, gamma))
    others = x.copy()
    others[at_label] = -np.inf
    if x.shape[1] > 1:
        with np.errstate(under="ignore"):
            share = np.exp(others - others.max(axis=1, keepdims=True))
        share /= share.sum(axis=1, keepdims=True)
    else:
        share = np.zeros(x.shape)
    A = s * rest**gamma * (rest + gamma * p * entropy)
    gradient = A[:, np.newaxis] * share
    gradient[at_label] = -A
    return float(loss), [axis_put_back(gradient, score, axis)]


def focal(entropy: np.ndarray, gamma: float) -> np.ndarray:
    """(1 - p)^gamma (-ln p) from -ln p."""
    return (-np.expm1(-entropy)) ** gamma * entropy


def focal_coefficients(
    score: np.ndarray,
    label: np.ndarray,
    weight: Optional[np.ndarray] = None,
    alpha: Any = None,
    ignore_label: Optional[float] = None,
    axis: int = 1,
    normalization: str = "VALID",
) -> Tuple[np.ndarray, np.ndarray]:
    """s = u alpha_y / D of each position, and its class y."""
    K = score.shape[axis]
    y, valid = class_numbers(label, K, ignore_label)
    u = valid * (1.0 if weight is None else float64(weight).ravel())
    alpha_y = np.broadcast_to(float64(1 if alpha is None else alpha), (K,))[y]
    D = softmax_divisor(score, axis, normalization, valid, y, np.sum(u * alpha_y))
    return u * alpha_y / D, y


def softmax_with_loss_ohem(
    score: np.ndarray,
    label: np.ndarray,
    weight: Optional[np.ndarray] = None,
    ignore_label: Optional[float] = None,
    axis: int = 1,
    label_smoothing: float = 0,
    **choice: Any,
) -> Answer:
    """L = sum s_c (-ln p_c), s_c = u q_c / M for the M positions that are kept, 0 for others."""
    if score.size == 0:
        return nothing(score)
    y, entropy, u = ohem_positions(score, label, weight, axis, ignore_label)
    kept = sorted(ohem_choice(y, entropy, u, **choice))
    q = smoothed(y, score.shape[axis], label_smoothing)
    s = np.zeros(q.shape)
    s[kept] = u[kept, np.newaxis] * q[kept] / max(1, len(kept))
    return softmax_cross_entropy(score, s, axis)


def ohem_positions(
    score: np.ndarray,
    label: np.ndarray,
    weight: Optional[np.ndarray],
    axis: int,
    ignore_label: Optional[float],
) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Class y, -ln p_y and weight u of each position; the weight is 0 where it takes no part."""
    y, valid = class_numbers(label, score.shape[axis], ignore_label)
    entropy = minus_log_softmax(positions(score, axis))[np.arange(len(y)), y]
    return y, entropy, valid * (1.0 if weight is None else float64(weight).ravel())


def ohem_choice(
    y: np.ndarray,
    entropy: np.ndarray,
    u: np.ndarray,
    neg_pos_ratio: float = 3,
    keep_ratio: Optional[float] = None,
    thresh: Optional[float] = None,
) -> Set[int]:
    """The positions that are kept, taken from a sorted list."""
    hardest_first = sorted(np.flatnonzero(u), key=lambda position: -entropy[position])
    kept = set()  # type: Set[int]
    if keep_ratio is None:
        kept = {position for position in hardest_first if y[position] > 0}
        hardest_first = [position for position in hardest_first if y[position] == 0]
        count = math.ceil(neg_pos_ratio * len(kept))
    else:
        count = math.ceil(keep_ratio * len(hardest_first))
    kept.update(hardest_first[:count])
    if thresh is not None:
        kept.update(p for p in hardest_first if np.exp(-entropy[p]) < thresh)
    return kept


def softmax_divisor(
    score: np.ndarray,
    axis: int,
    normalization: str,
    valid: np.ndarray,
    y: np.ndarray,
    weight: float,
) -> float:
    """What the sum over positions is divided by."""
    if normalization == "WEIGHT":
        return weight or 1
    if normalization == "POSITIVE":
        return max(1, np.count_nonzero(valid & (y > 0)))
    N = int(np.prod(score.shape[: axis % score.ndim]))
    return divisor(normalization, N, len(y), np.count_nonzero(valid))


def positions(score: np.ndarray, axis: int) -> np.ndarray:
    """The scores as (positions, K)."""
    return np.moveaxis(float64(score), axis, -1).reshape(-1, score.shape[axis])


def axis_put_back(array: np.ndarray, score: np.ndarray, axis: int) -> np.ndarray:
    """An array (positions, K) in the shape of the score."""
    return np.moveaxis(array.reshape(np.moveaxis(score, axis, -1).shape), -1, axis)


def class_numbers(
    label: np.ndarray, K: int, ignore_label: Optional[float]
) -> Tuple[np.ndarray, np.ndarray]:
    """The class of each position, and whether it takes part: what is no class number does not."""
    t = float64(label).ravel()
    valid = np.isin(t, np.arange(K))
    if ignore_label is not None:
        valid &= t != np.float32(ignore_label)
    return np.where(valid, t, 0).astype(int), valid


def minus_log_softmax(x: np.ndarray) -> np.ndarray:
    """-ln p_c = m - x_c + ln(1 + r), r being the sum of e^(x_k - m) without the largest score m."""
    at_largest = np.arange(len(x)), np.argmax(x, axis=1)
    m = x[at_largest][:, np.newaxis]
    with np.errstate(under="ignore"):
        exponentials = np.exp(x - m)
    exponentials[at_largest] = 0
    return m - x + np.log1p(exponentials.sum(axis=1, keepdims=True))


def balanced_coefficients(
    score: np.ndarray, label: np.ndarray, balance: str = "image", normalization: str = "WEIGHT"
) -> Tuple[np.ndarray, np.ndarray]:
    """s (1 - t) and s t, as (N, C, S)."""
    t = batch_channel_position(label, score)
    s = balanced_weights(label, t.shape, balance, normalization)
    return s * (1 - t), s * t


def weighted_coefficients(
    score: np.ndarray,
    label: np.ndarray,
    weight: Optional[np.ndarray] = None,
    cls_weight: Any = 1,
    normalization: str = "NONE",
    ignore_label: Optional[float] = None,
) -> Tuple[np.ndarray, np.ndarray]:
    """v (1 - t) / divisor and v w t / divisor, as (N, C, S)."""
    t = batch_channel_position(label, score)
    w = float64(cls_weight).reshape(1, -1, 1)
    v = np.ones(t.shape) if weight is None else for_each_element(weight, t.shape)
    valid = np.ones(t.shape, dtype=bool)
    if ignore_label is not None:
        valid = t != np.float32(ignore_label)
        t = np.where(valid, t, 0)
    v = valid * v / divisor(normalization, len(t), t.size, np.count_nonzero(valid))
    return v * (1 - t), v * w * t


def balanced_weights(
    mask: np.ndarray, shape: Tuple[int, int, int], balance: str, normalization: str
) -> np.ndarray:
    """The weight of each element of an (N, C, S) blob, divided by the normalization.

    A positive position weighs Q/(P+Q), a negative one P/(P+Q), an ignored one 0.
    """
    N, C, _ = shape
    m = for_each_element(mask, shape)
    positive, negative = m > 0, m == 0
    counted_together = {"batch": (0, 1, 2), "channel": (0, 2)}.get(balance, (1, 2))
    P = positive.sum(axis=counted_together, keepdims=True)
    Q = negative.sum(axis=counted_together, keepdims=True)
    if balance == "none":
        weight = 1.0 * positive + 1.0 * negative
    else:
        weight = (positive * Q + negative * P) / np.maximum(P + Q, 1)
    weight = weight + np.zeros(shape)  # the same on every channel
    if normalization == "WEIGHT":
        total = weight.sum(axis=counted_together, keepdims=True)
        total = {"batch": 1, "channel": C}.get(balance, N) * total
        return weight / np.where(total > 0, total, 1)
    valid = np.count_nonzero(np.broadcast_to(m >= 0, shape))
    return weight / divisor(normalization, N, weight.size, valid)


def divisor(normalization: str, N: int, elements: int, valid: int) -> int:
    """What Caffe's LossParameter divides a sum by: never less than 1."""
    return max(1, {"NONE": 1, "FULL": elements, "VALID": valid, "BATCH_SIZE": N}[normalization])


def softplus(z: np.ndarray) -> np.ndarray:
    """ln(1 + e^z)."""
    with np.errstate(under="ignore"):
        return np.logaddexp(0, z)


def sigmoid(z: np.ndarray) -> np.ndarray:
    """1 / (1 + e^-z)."""
    with np.errstate(under="ignore"):
        return np.exp(-softplus(-z))


def for_each_element(mask: np.ndarray, shape: Tuple[int, int, int]) -> np.ndarray:
    """A mask as it broadcasts to an (N, C, S) blob: its own elements, or one for all channels."""
    N, C, S = shape
    return float64(mask).reshape((N, C, S) if mask.size == N * C * S else (N, 1, S))


def batch_channel_position(array: np.ndarray, like: Optional[np.ndarray] = None) -> np.ndarray:
    """A blob as (N, C, S) in float64; one that differs only in axes of size 1 takes `like`'s."""
    shape = array.shape if like is None else like.shape
    N, C = (shape + (1, 1))[:2]
    return float64(array).reshape(N, C, int(np.prod(shape[2:])))


def batch_size(array: np.ndarray) -> int:
    return array.shape[0] if array.ndim else 1


def float64(array: Any) -> np.ndarray:
    return np.asarray(array, dtype=np.float64)


def opposite(gradient: np.ndarray, target: np.ndarray) -> List[np.ndarray]:
    """The gradients to prediction and target."""
    return [gradient, -gradient.reshape(target.shape)]


def nothing(*bottoms: np.ndarray) -> Answer:
    """The answer for an empty batch."""
    return 0.0, [np.zeros(bottom.shape) for bottom in bottoms]
