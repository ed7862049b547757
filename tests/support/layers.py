"""The table of layers that all generic tests read, and the rows that it gives: ways to use a layer.

A new layer is one `Layer` in LAYERS.
"""

import json
import random
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from support import oracle, tolerance
from support.draws import (
    Array,
    Draw,
    binary,
    binary_with_255,
    classes,
    classes_with_255,
    hard,
    hard_with_minus_1,
    mask,
    mask_with_255,
    mostly_one,
    normal,
    positive,
    positive_without_balance,
    probability,
    rare_classes,
    score_of_sigmoid,
    score_of_softmax,
    soft,
    soft_mask,
    sparse,
    tiny,
    with_255,
    with_minus_1,
    with_minus_1_balanced,
)
from support.layouts import (
    ELEMENTS,
    ELEMENTS_OR_POSITIONS,
    EXACTLY,
    MASKS_OR_CLASSES,
    POSITIONS,
    Layout,
    Layouts,
    Shape,
)
from support.nets import python_layer
from support.parameters import Axis, Boolean, Number, NumberForEachChannel, Word
from support.tolerance import Tolerance

Parameters = Dict[str, Any]


class Mistake(NamedTuple):
    """An element that must not be in a bottom, and what the error must say beside its place."""

    element: float
    fix: str
    parameters: Parameters = {}


class Bottom(NamedTuple):
    """What goes into a layer."""

    name: str
    draws: Sequence[Draw]  # those of the rows; the first one is the ordinary one
    layouts: Layouts = ELEMENTS
    differentiable: bool = False
    optional: bool = False
    draws_alone: Sequence[Draw] = ()  # where the optional bottoms are missing, if not `draws`
    # Elements that, all over an image, take it out of the loss.
    without_weight: Sequence[float] = ()
    # Whether each element is one that raises ValueError, with these parameters; and for how many
    # channels an element stands.
    wrong: Optional[Callable[[Array, Parameters, int], Array]] = None
    mistakes: Sequence[Mistake] = ()


def any_shape(first: Shape, parameters: Parameters) -> bool:
    return True


class Layer(NamedTuple):
    """A layer, described so that generic tests can draw for it and know what must come out."""

    module: str
    name: str
    oracle: Callable[..., oracle.Answer]  # of bottoms and parameters: loss, gradients
    bottoms: Sequence[Bottom]
    parameters: Dict[str, Any] = {}
    # Whether the first bottom may have this shape.
    takes: Callable[[Shape, Parameters], bool] = any_shape
    # Parameters with which the loss of a batch is the mean over its images; None: there are none.
    mean_over_images: Optional[Parameters] = {}
    # Parameters with which large bottoms make a loss that float32 does not hold; None: none do.
    overflows: Optional[Parameters] = {}
    # How far from the oracle loss and gradients may be.
    tolerance: Callable[..., Tolerance] = tolerance.of_answer

    def __repr__(self) -> str:
        return self.name

    @property
    def required(self) -> Parameters:
        """The parameters that must be given."""
        return {key: p.examples[0] for key, p in self.parameters.items() if p.required}

    def wrong_elements(self, inputs: Dict[str, Array], parameters: Parameters) -> bool:
        """Whether the layer must refuse an element of its bottoms."""
        first = next(iter(inputs.values())).shape
        return parameters.get("check_labels") != "never" and any(
            bottom.wrong is not None
            and bottom.name in inputs
            and np.any(
                bottom.wrong(
                    inputs[bottom.name],
                    parameters,
                    channels_shared(inputs[bottom.name].shape, first, parameters),
                )
            )
            for bottom in self.bottoms
        )


# What labels may be


def above_1(label: Array, parameters: Parameters, channels: int) -> Array:
    return ~(label <= 1 + 1e-4)


def outside_0_to_1(label: Array, parameters: Parameters, channels: int) -> Array:
    right = (label >= 0) & (label <= 1 + 1e-4)
    if "ignore_label" in parameters:
        right |= label == np.float32(parameters["ignore_label"])
    return ~right


def no_mask_and_no_class(label: Array, parameters: Parameters, channels: int) -> Array:
    if channels == 1:
        return outside_0_to_1(label, parameters, channels)
    return no_class_number(label, parameters, channels)


def not_0_or_1(label: Array, parameters: Parameters, channels: int) -> Array:
    return no_class_number(label, parameters, 2)


def neither_0_nor_1_nor_ignored(label: Array, parameters: Parameters, channels: int) -> Array:
    wrong = (label > 0) & (label != 1)
    if "ignore_label" in parameters:
        wrong &= label != np.float32(parameters["ignore_label"])
    return wrong


def negative_without_balance(weight: Array, parameters: Parameters, channels: int) -> Array:
    has_balance = parameters.get("balance", "none") != "none"
    return (weight < 0) & np.isfinite(weight) & (not has_balance)


def no_class_number(label: Array, parameters: Parameters, channels: int) -> Array:
    right = np.isin(label, np.arange(channels))
    if "ignore_label" in parameters:
        right |= label == np.float32(parameters["ignore_label"])
    return ~right


# What shapes go with parameters


def has_axis(first: Shape, parameters: Parameters) -> bool:
    return -len(first) <= parameters.get("axis", 1) < len(first)


def has_channel_for_each_weight(first: Shape, parameters: Parameters) -> bool:
    weights = parameters.get("cls_weight", parameters.get("class_weight"))
    return not isinstance(weights, list) or len(weights) in (1, channels_of(first, parameters))


def has_number_for_each_class(first: Shape, parameters: Parameters) -> bool:
    lists = [value for value in parameters.values() if isinstance(value, list)]
    return has_axis(first, parameters) and all(
        len(numbers) in (1, channels_of(first, parameters)) for numbers in lists
    )


def has_channels_to_average(first: Shape, parameters: Parameters) -> bool:
    has_foreground = parameters.get("background", True) or channels_of(first, parameters) != 1
    return has_foreground and has_channel_for_each_weight(first, parameters)


def axis_of(first: Shape, parameters: Parameters) -> int:
    """The axis of channels, counted from the start."""
    axis = parameters.get("axis", 1)
    return axis + len(first) if axis < 0 else axis


def channels_of(first: Shape, parameters: Parameters) -> int:
    """The length of the axis of channels; 1 where it is missing."""
    axis = axis_of(first, parameters)
    return first[axis] if 0 <= axis < len(first) else 1


def channels_shared(shape: Shape, first: Shape, parameters: Parameters) -> int:
    """For how many channels of the first bottom an element of another one stands."""
    is_shared = np.prod(shape) < np.prod(first)
    return channels_of(first, parameters) if is_shared else 1


# The table

PREDICTION = Bottom("prediction", [normal], differentiable=True)
TARGET = Bottom("target", [normal], differentiable=True)
SCORE = Bottom("score", [normal], differentiable=True)
BALANCE = {
    "balance": Word("image", "batch", "channel", "none"),
    "normalization": Word("WEIGHT", "BATCH_SIZE", "NONE", "FULL", "VALID"),
}
CHECK_LABELS = Word("always", "first", "never")
CLASS_LABEL = Bottom(
    "label",
    [classes, classes_with_255, rare_classes],
    POSITIONS,
    wrong=no_class_number,
    mistakes=[
        Mistake(255, 'set "ignore_label": 255'),
        Mistake(3, "as many channels as there are classes"),
        Mistake(-1, 'set "ignore_label": -1'),
        Mistake(0.5, "expected whole numbers from 0 to 2"),
        Mistake(254, 'set "ignore_label": 254', {"ignore_label": 255}),
        Mistake(np.nan, "expected whole numbers from 0 to 2"),
    ],
)
POSITION_WEIGHT = Bottom("weight", [positive], POSITIONS, optional=True, without_weight=[0])
MASK = Bottom(
    "label",
    [mask, mask_with_255, soft_mask],
    MASKS_OR_CLASSES,
    wrong=no_mask_and_no_class,
    mistakes=[
        Mistake(255, "divide a mask of 0 and 255 by 255"),
        Mistake(-1, 'set "ignore_label": -1'),
        Mistake(254, 'set "ignore_label": 254', {"ignore_label": 255}),
        Mistake(np.nan, "expected 0 to 1"),
    ],
)
OVERLAP = [
    Bottom("prediction", [probability, score_of_sigmoid, score_of_softmax], differentiable=True),
    MASK,
    Bottom("weight", [positive], ELEMENTS_OR_POSITIONS, optional=True, without_weight=[0]),
]
OF_OVERLAP = {
    "activation": Word("none", "sigmoid", "softmax"),
    "reduce": Word("batch", "image"),
    "smooth": Number(0.5, minimum=0),
    "class_weight": NumberForEachChannel(2, [1, 2, 0.5], minimum=0),
    "ignore_label": Number(255),
    "background": Boolean(True),
}
DICE = Layer(
    "caffe_losses.layers",
    "DiceLossLayer",
    oracle.dice,
    OVERLAP,
    {**OF_OVERLAP, "squared": Boolean(False)},
    takes=has_channels_to_average,
    mean_over_images={"reduce": "image"},
    overflows=None,
    tolerance=tolerance.of_overlap,
)

LAYERS = [
    Layer("pylayerUtils", "EuclideanLossLayer", oracle.euclidean, [PREDICTION, TARGET]),
    Layer(
        "pylayerUtils",
        "WeightedEuclideanLossLayer",
        oracle.weighted_euclidean,
        [
            PREDICTION,
            TARGET._replace(draws_alone=[sparse]),
            Bottom(
                "mask",
                [hard, with_minus_1, mostly_one],
                ELEMENTS_OR_POSITIONS,
                optional=True,
                without_weight=[0, -1],
            ),
        ],
        BALANCE,
        overflows={"normalization": "NONE"},
    ),
    Layer(
        "pylayerUtils",
        "WeightedSigmoidCrossEntropyLossLayer",
        oracle.weighted_sigmoid_cross_entropy,
        [
            SCORE,
            Bottom(
                "label",
                [hard, with_minus_1, mostly_one, soft, tiny],
                without_weight=[0, -1],
                wrong=above_1,
                mistakes=[
                    Mistake(255, "divide a mask of 0 and 255 by 255"),
                    Mistake(1.5, "divide a mask of 0 and 255 by 255"),
                    Mistake(255, "negative label"),
                    Mistake(np.nan, "negative label"),
                ],
            ),
        ],
        {**BALANCE, "check_labels": CHECK_LABELS},
        overflows={"normalization": "NONE"},
        tolerance=tolerance.of_cross_entropy(oracle.balanced_coefficients),
    ),
    Layer(
        "sigmoid_ce_weight_layer",
        "SigmoidCrossEntropyWeightLossLayer",
        oracle.sigmoid_cross_entropy_weight,
        [
            SCORE,
            Bottom(
                "label",
                [hard, with_255, mostly_one, soft, tiny],
                wrong=outside_0_to_1,
                mistakes=[
                    Mistake(255, "divide a mask of 0 and 255 by 255"),
                    Mistake(1.5, "divide a mask of 0 and 255 by 255"),
                    Mistake(-1, 'set "ignore_label": -1'),
                    Mistake(254, 'set "ignore_label": 254', {"ignore_label": 255}),
                    Mistake(np.nan, "expected 0 to 1"),
                ],
            ),
            Bottom("weight", [positive], ELEMENTS_OR_POSITIONS, optional=True, without_weight=[0]),
        ],
        {
            "cls_weight": NumberForEachChannel(2, 0, 100, [1, 10, 0.5], minimum=0, required=True),
            "normalization": Word("NONE", "FULL", "VALID", "BATCH_SIZE"),
            "ignore_label": Number(255),
            "check_labels": CHECK_LABELS,
        },
        takes=has_channel_for_each_weight,
        mean_over_images={"normalization": "BATCH_SIZE"},
        tolerance=tolerance.of_cross_entropy(oracle.weighted_coefficients),
    ),
    Layer(
        "caffe_losses.layers",
        "HuberLossLayer",
        oracle.huber,
        [
            PREDICTION,
            TARGET._replace(draws_alone=[sparse]),
            Bottom(
                "weight",
                [hard, positive_without_balance, with_minus_1_balanced],
                ELEMENTS_OR_POSITIONS,
                optional=True,
                without_weight=[0],
                wrong=negative_without_balance,
                mistakes=[
                    Mistake(-1, '"balance": "image"'),
                    Mistake(-1, "give 0 to what is to be left out"),
                ],
            ),
        ],
        {
            "delta": Number(0.1, 2, minimum=1e-30),
            "balance": Word("none", "image", "batch", "channel"),
            "normalization": BALANCE["normalization"],
        },
        overflows={"normalization": "NONE", "delta": 2},
        tolerance=tolerance.of_huber,
    ),
    Layer(
        "caffe_losses.layers",
        "SmoothL1LossLayer",
        oracle.smooth_l1,
        [
            PREDICTION,
            TARGET,
            Bottom(
                "inside_weight",
                [positive, hard],
                ELEMENTS_OR_POSITIONS,
                optional=True,
                without_weight=[0],
            ),
            Bottom(
                "outside_weight",
                [positive, hard],
                ELEMENTS_OR_POSITIONS,
                optional=True,
                without_weight=[0],
            ),
        ],
        {
            "sigma": Number(3, 0.5, minimum=1e-3, maximum=1e3),
            "normalization": Word("BATCH_SIZE", "FULL", "NONE"),
        },
        overflows={"normalization": "NONE"},
        tolerance=tolerance.of_smooth_l1,
    ),
    Layer(
        "caffe_losses.layers",
        "SigmoidFocalLossLayer",
        oracle.sigmoid_focal,
        [
            SCORE,
            Bottom(
                "label",
                [hard, with_255, mostly_one, hard_with_minus_1],
                without_weight=[-1],
                wrong=neither_0_nor_1_nor_ignored,
                mistakes=[
                    Mistake(0.5, "there are three definitions of the focal loss of a soft label"),
                    Mistake(2, 'set "ignore_label": 2'),
                    Mistake(255, 'set "ignore_label": 255'),
                    Mistake(254, 'set "ignore_label": 254', {"ignore_label": 255}),
                ],
            ),
            Bottom("weight", [positive], ELEMENTS_OR_POSITIONS, optional=True, without_weight=[0]),
        ],
        {
            "alpha": Number(0.75, None, minimum=0, maximum=1, or_none=True),
            "gamma": Number(0, 0.5, 1, 3, 5, minimum=0),
            "normalization": Word("VALID", "POSITIVE", "WEIGHT", "FULL", "BATCH_SIZE", "NONE"),
            "ignore_label": Number(255),
            "check_labels": CHECK_LABELS,
        },
        mean_over_images={"normalization": "BATCH_SIZE"},
        overflows={"normalization": "NONE", "alpha": None},
        tolerance=tolerance.of_focal,
    ),
    Layer(
        "caffe_losses.layers",
        "WeightedSoftmaxWithLossLayer",
        oracle.weighted_softmax_with_loss,
        [SCORE, CLASS_LABEL, POSITION_WEIGHT],
        {
            "class_weight": NumberForEachChannel(2, [1, 10, 0.5], minimum=0),
            "ignore_label": Number(255),
            "axis": Axis(2, -1, 0),
            "label_smoothing": Number(0.1, 1, minimum=0, maximum=1),
            "normalization": Word("WEIGHT", "VALID", "FULL", "BATCH_SIZE", "NONE"),
            "check_labels": CHECK_LABELS,
        },
        takes=has_number_for_each_class,
        mean_over_images={"normalization": "BATCH_SIZE"},
        overflows={"normalization": "NONE"},
        tolerance=tolerance.of_softmax,
    ),
    Layer(
        "caffe_losses.layers",
        "SoftmaxFocalLossLayer",
        oracle.softmax_focal,
        [SCORE, CLASS_LABEL, POSITION_WEIGHT],
        {
            "alpha": NumberForEachChannel(0.25, [1, 10, 0.5], minimum=0),
            "gamma": Number(0, 0.5, 5, minimum=0, maximum=100),
            "ignore_label": Number(255),
            "axis": Axis(2, -1, 0),
            "normalization": Word("VALID", "POSITIVE", "WEIGHT", "FULL", "BATCH_SIZE", "NONE"),
            "check_labels": CHECK_LABELS,
        },
        takes=has_number_for_each_class,
        mean_over_images={"normalization": "BATCH_SIZE"},
        overflows={"normalization": "NONE"},
        tolerance=tolerance.of_softmax_focal,
    ),
    Layer(
        "caffe_losses.layers",
        "SoftmaxWithLossOHEMLayer",
        oracle.softmax_with_loss_ohem,
        [SCORE, CLASS_LABEL, POSITION_WEIGHT],
        {
            "neg_pos_ratio": Number(1, 0.5, minimum=0),
            "keep_ratio": Number(0.3, 1, minimum=0, maximum=1),
            "thresh": Number(0.7, minimum=0, maximum=1),
            "label_smoothing": Number(0.1, 1, minimum=0, maximum=1),
            "ignore_label": Number(255),
            "axis": Axis(2, -1, 0),
            "check_labels": CHECK_LABELS,
        },
        takes=has_axis,
        mean_over_images=None,
        overflows={"keep_ratio": 0.1},
        tolerance=tolerance.of_ohem,
    ),
    Layer(
        "pylayerUtils",
        "ChannelSumEuclideanLossLayer",
        oracle.channel_sum_euclidean,
        [PREDICTION, TARGET._replace(layouts=EXACTLY)],
        {"axis": Axis(2, -1), "reduce": Word("axis", "tail")},
        takes=has_axis,
        tolerance=tolerance.of_sums,
    ),
    DICE,
    DICE._replace(module="pylayerUtils", name="DiceCoefLossLayer"),
    Layer(
        "caffe_losses.layers",
        "TverskyLossLayer",
        oracle.tversky,
        OVERLAP,
        {
            "alpha": Number(0.3, minimum=0),
            "beta": Number(0.7, minimum=0),
            "gamma": Number(0.75, 2, above=0),
            **OF_OVERLAP,
        },
        takes=has_channels_to_average,
        mean_over_images={"reduce": "image"},
        overflows=None,
        tolerance=tolerance.of_overlap,
    ),
    Layer(
        "caffe_losses.layers",
        "LovaszHingeLossLayer",
        oracle.lovasz_hinge,
        [
            SCORE,
            Bottom(
                "label",
                [binary, binary_with_255],
                wrong=not_0_or_1,
                mistakes=[
                    Mistake(255, "divide a mask of 0 and 255 by 255"),
                    Mistake(-1, 'set "ignore_label": -1'),
                    Mistake(0.5, "expected whole numbers from 0 to 1"),
                    Mistake(254, 'set "ignore_label": 254', {"ignore_label": 255}),
                    Mistake(np.nan, "expected whole numbers from 0 to 1"),
                ],
            ),
        ],
        {"per_image": Boolean(True), "ignore_label": Number(255)},
        overflows=None,
    ),
    Layer(
        "caffe_losses.layers",
        "LovaszSoftmaxLossLayer",
        oracle.lovasz_softmax,
        [
            SCORE,
            CLASS_LABEL._replace(draws=[classes, classes_with_255]),
        ],
        {
            "per_image": Boolean(False),
            "classes": Word("present", "all"),
            "ignore_label": Number(255),
        },
        mean_over_images={"per_image": True},
        overflows=None,
        tolerance=tolerance.of_ranks,
    ),
]
LAYER = {layer.name: layer for layer in LAYERS}

# The rows


class Row(NamedTuple):
    """A way to use a layer."""

    layer: Layer
    draws: Dict[str, Draw]  # of each bottom
    layouts: Dict[str, Layout]
    parameters: Parameters

    @property
    def differentiable(self) -> List[str]:
        return [bottom.name for bottom in self.layer.bottoms if bottom.differentiable]


Factor = Tuple[str, str]  # of a bottom its draw or layout, of a parameter its value
ABSENT = object()
MOST_CHOICES = 2000
ORDINARY_SHAPE = (2, 3, 4, 5)  # of the first bottom: every row takes it


def factors_of(layer: Layer) -> Dict[Factor, List[Any]]:
    """What can be chosen in a row: for each bottom draw and layout, for each parameter a value.

    Some parameters and bottoms can be absent.
    """
    factors = {}  # type: Dict[Factor, List[Any]]
    for bottom in layer.bottoms:
        factors[bottom.name, "draw"] = list(bottom.draws) + [ABSENT] * bottom.optional
        factors[bottom.name, "layout"] = list(bottom.layouts.layouts)
    for key, parameter in layer.parameters.items():
        factors[key, "value"] = [ABSENT] * (not parameter.required) + list(parameter.examples)
    return factors


def row_of(layer: Layer, choice: Dict[Factor, Any]) -> Optional[Row]:
    """The row with these choices; None where they do not go together."""
    present = [b for b in layer.bottoms if choice[b.name, "draw"] is not ABSENT]
    if present != list(layer.bottoms[: len(present)]):
        return None
    draws = {b.name: choice[b.name, "draw"] for b in present}
    if len(present) < len(layer.bottoms):
        draws.update({b.name: b.draws_alone[0] for b in present if b.draws_alone})
    layouts = {b.name: choice[b.name, "layout"] for b in present}
    values = {key: choice[key, "value"] for key in layer.parameters}
    parameters = {key: value for key, value in values.items() if value is not ABSENT}
    needs = [item for draw in draws.values() for item in draw.needs.items()]
    if any(parameters.get(key) != value for key, value in needs):
        return None
    if not layer.takes(ORDINARY_SHAPE, parameters):
        return None
    return Row(layer, draws, layouts, parameters)


def rows_of(layer: Layer) -> List[Row]:
    """Rows in which any two choices that go together do so once.

    The first rows have all defaults, with every number of bottoms.
    """
    factors = factors_of(layer)
    rows = [(row_of(layer, choice), choice) for choice in some_choices(factors)]
    candidates = [row for row, _ in rows if row is not None]
    options = np.stack([options_in(choice, factors) for row, choice in rows if row is not None])
    uncovered = np.triu(options.T @ options > 0, 1)  # the pairs of options
    chosen = defaults_of(layer)
    while uncovered.any():
        covered = np.sum(options @ uncovered * options, axis=1)
        best = np.argmax(covered)
        uncovered &= ~np.outer(options[best], options[best]).astype(bool)
        chosen += [candidates[best]] * (candidates[best] not in chosen)
    return chosen


def some_choices(factors: Dict[Factor, List[Any]]) -> List[Dict[Factor, Any]]:
    """An option of each factor, in all ways or so many of them."""
    sizes = [len(options) for options in factors.values()]
    count = int(np.prod(sizes))
    numbers = random.Random(0).sample(range(count), min(MOST_CHOICES, count))
    return [
        {factor: factors[factor][k] for factor, k in zip(factors, places)}
        for places in zip(*np.unravel_index(numbers, sizes))
    ]


def options_in(choice: Dict[Factor, Any], factors: Dict[Factor, List[Any]]) -> Array:
    """For each option of all factors 1 or 0, whether it was chosen; no layout of what is absent."""
    taken = []  # type: List[float]
    for (name, kind), options in factors.items():
        counts = kind != "layout" or choice[name, "draw"] is not ABSENT
        taken += [counts and choice[name, kind] is option for option in options]
    return np.array(taken, np.float32)


def defaults_of(layer: Layer) -> List[Row]:
    """The rows with the first draw and layout of each bottom and no parameter that is not required.

    The first one has all bottoms.
    """
    first = {key: options[0] for key, options in factors_of(layer).items()}
    rows = [row_of(layer, first)]
    for bottom in reversed(layer.bottoms):
        if bottom.optional:
            first[bottom.name, "draw"] = ABSENT
            rows.append(row_of(layer, first))
    return [row for row in rows if row is not None]


DEFAULTS = [row for layer in LAYERS for row in defaults_of(layer)]
ROWS = [row for layer in LAYERS for row in rows_of(layer)]


def row_with(
    layer: Layer, draws: Optional[Dict[str, Draw]] = None, optional: bool = True, **parameters: Any
) -> Row:
    """The row with the layer's defaults, but these draws and parameters.

    It has all bottoms or none of the optional ones.
    """
    row = defaults_of(layer)[0 if optional else -1]
    return row._replace(
        draws={**row.draws, **(draws or {})}, parameters={**row.parameters, **parameters}
    )


def name_of(row: Row) -> str:
    """A readable name of a test's case."""
    bottoms = "-".join(
        draw.name + ("" if name in ("prediction", "score") else f".{row.layouts[name].__name__}")
        for name, draw in row.draws.items()
    )
    return f"{row.layer.name}-{bottoms}-{json.dumps(row.parameters)}"


def draw(row: Row, shape: Sequence[int], seed: int = 0) -> Dict[str, Array]:
    """Bottoms for a row, the first one of this shape."""
    state, first = np.random.RandomState(seed), tuple(shape)
    axis = axis_of(first, row.parameters)
    shapes = {name: row.layouts[name](first, axis) for name in row.draws}
    return {
        name: draw_one(state, shapes[name], channels_shared(shapes[name], first, row.parameters))
        for name, draw_one in row.draws.items()
    }


def layer_of(row: Row, **options: Any) -> str:
    """The prototxt of a row's layer, with loss_weight 1 unless given."""
    options = {"loss_weight": 1, **options}
    return python_layer(
        row.layer.module, row.layer.name, list(row.draws), row.parameters, **options
    )


def of_the_formula(parameters: Parameters) -> Parameters:
    """The parameters without those that choose checks alone."""
    return {key: value for key, value in parameters.items() if key != "check_labels"}


def expected(row: Row, inputs: Dict[str, Array]) -> Tuple[float, Dict[str, Array]]:
    """The oracle's loss and the gradients by bottom, zero for masks and labels."""
    loss, gradients = row.layer.oracle(*inputs.values(), **of_the_formula(row.parameters))
    by_name = {name: np.zeros(array.shape) for name, array in inputs.items()}
    by_name.update(zip(row.differentiable, gradients))
    return loss, by_name
