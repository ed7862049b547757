"""One row for each way to use a loss: what the tests of all losses run over."""

import json
from typing import Any, Callable, Dict, NamedTuple, Sequence

import numpy as np

from support import oracle
from support.nets import python_layer

Array = np.ndarray
Row = NamedTuple(
    "Row",
    [
        ("module", str),
        ("layer", str),
        ("draws", Dict[str, Callable[..., Array]]),  # what each bottom is drawn from
        ("parameters", Dict[str, Any]),
        ("oracle", Callable[..., Any]),  # of the bottoms and parameters: (loss, gradients)
        ("differentiable", Sequence[str]),
    ],
)


def normal(random: np.random.RandomState, shape: Sequence[int]) -> Array:
    return random.randn(*shape).astype(np.float32)


def sparse(random: np.random.RandomState, shape: Sequence[int]) -> Array:
    """Vectors of which about a third are zero in all channels."""
    positions = random.rand(shape[0], 1, *shape[2:]) < 0.67
    return (random.randn(*shape) * positions).astype(np.float32)


def hard(random: np.random.RandomState, shape: Sequence[int]) -> Array:
    return (random.rand(*shape) < 0.3).astype(np.float32)


def mostly_one(random: np.random.RandomState, shape: Sequence[int]) -> Array:
    return (random.rand(*shape) < 0.97).astype(np.float32)


def hard_of_positions(random: np.random.RandomState, shape: Sequence[int]) -> Array:
    return hard(random, (shape[0], 1, *shape[2:]))


def soft(random: np.random.RandomState, shape: Sequence[int]) -> Array:
    return random.rand(*shape).astype(np.float32)


def with_ignored(random: np.random.RandomState, shape: Sequence[int]) -> Array:
    return random.choice([-1, 0, 0, 0, 1, 0.5], size=shape).astype(np.float32)


def mask_of_positions(random: np.random.RandomState, shape: Sequence[int]) -> Array:
    return with_ignored(random, (shape[0], 1, *shape[2:]))


def mask_without_channels(random: np.random.RandomState, shape: Sequence[int]) -> Array:
    return with_ignored(random, (shape[0], *shape[2:]))


def with_255(random: np.random.RandomState, shape: Sequence[int]) -> Array:
    return random.choice([0, 0, 1, 255], size=shape).astype(np.float32)


def positive(random: np.random.RandomState, shape: Sequence[int]) -> Array:
    return (random.rand(*shape) * 2).astype(np.float32)


def positive_of_positions(random: np.random.RandomState, shape: Sequence[int]) -> Array:
    return positive(random, (shape[0], 1, *shape[2:]))


PAIR = {"prediction": normal, "target": normal}
BALANCES = [
    {"balance": balance, "normalization": normalization}
    for balance in ("image", "batch", "none")
    for normalization in ("WEIGHT", "BATCH_SIZE", "NONE", "FULL", "VALID")
]


def rows(
    module: str, layer: str, oracle_of: Callable[..., Any], draws: Any, *parameters: Any
) -> Any:
    differentiable = [name for name in draws if name in ("prediction", "target", "score")]
    return [Row(module, layer, draws, each, oracle_of, differentiable) for each in parameters]


def weighted_euclidean(draws: Any, *parameters: Any) -> Any:
    layer = "WeightedEuclideanLossLayer"
    return rows("pylayerUtils", layer, oracle.weighted_euclidean, draws, *parameters)


def balanced_cross_entropy(draws: Any, *parameters: Any) -> Any:
    layer = "WeightedSigmoidCrossEntropyLossLayer"
    return rows("pylayerUtils", layer, oracle.weighted_sigmoid_cross_entropy, draws, *parameters)


def weighted_cross_entropy(draws: Any, *parameters: Any) -> Any:
    module, layer = "sigmoid_ce_weight_layer", "SigmoidCrossEntropyWeightLossLayer"
    return rows(module, layer, oracle.sigmoid_cross_entropy_weight, draws, *parameters)


def channel_sum(*parameters: Any) -> Any:
    layer = "ChannelSumEuclideanLossLayer"
    return rows("pylayerUtils", layer, oracle.channel_sum_euclidean, PAIR, *parameters)


LOSSES = [
    *rows("pylayerUtils", "EuclideanLossLayer", oracle.euclidean, PAIR, {}),
    *weighted_euclidean({**PAIR, "mask": mask_of_positions}, {}, *BALANCES),
    *weighted_euclidean({**PAIR, "mask": mask_without_channels}, {}, {"balance": "batch"}),
    *weighted_euclidean({**PAIR, "mask": with_ignored}, {}, {"normalization": "VALID"}),
    *weighted_euclidean({**PAIR, "mask": hard_of_positions}, {}, *BALANCES),
    *weighted_euclidean({**PAIR, "mask": hard}, {}, {"balance": "batch"}),
    *weighted_euclidean({**PAIR, "mask": mostly_one}, {}, {"normalization": "BATCH_SIZE"}),
    *weighted_euclidean({"prediction": normal, "target": sparse}, {}, *BALANCES),
    *balanced_cross_entropy({"score": normal, "label": hard}, {}, *BALANCES),
    *balanced_cross_entropy({"score": normal, "label": mostly_one}, {}, {"balance": "batch"}),
    *balanced_cross_entropy({"score": normal, "label": with_ignored}, {}, *BALANCES),
    *balanced_cross_entropy({"score": normal, "label": soft}, {}, {"check_labels": "never"}),
    *weighted_cross_entropy(
        {"score": normal, "label": hard},
        {"cls_weight": 1},
        {"cls_weight": 0},
        {"cls_weight": 100},
        {"cls_weight": [1, 10, 0.5]},
        {"cls_weight": 10, "check_labels": "first"},
        *({"cls_weight": 10, "normalization": n} for n in ("NONE", "FULL", "VALID", "BATCH_SIZE")),
    ),
    *weighted_cross_entropy({"score": normal, "label": soft}, {"cls_weight": 10}),
    *weighted_cross_entropy(
        {"score": normal, "label": with_255},
        {"cls_weight": 2, "ignore_label": 255},
        {"cls_weight": [2, 3, 4], "ignore_label": 255, "normalization": "VALID"},
        {"cls_weight": 2, "ignore_label": 255, "normalization": "FULL"},
    ),
    *weighted_cross_entropy(
        {"score": normal, "label": hard, "weight": positive}, {"cls_weight": 5}
    ),
    *weighted_cross_entropy(
        {"score": normal, "label": soft, "weight": positive_of_positions},
        {"cls_weight": [5, 6, 7], "normalization": "BATCH_SIZE"},
    ),
    *channel_sum({}, {"reduce": "tail"}, {"axis": 2}, {"axis": -1}, {"axis": 2, "reduce": "tail"}),
]


def name_of(row: Row) -> str:
    """A readable name of a test's case."""
    bottoms = "-".join(draw.__name__ for draw in row.draws.values())
    return f"{row.layer}-{bottoms}-{json.dumps(row.parameters)}"


def draw(row: Row, shape: Sequence[int], seed: int = 0) -> Dict[str, Array]:
    """Bottoms for a row of the table."""
    random = np.random.RandomState(seed)
    return {name: draw_one(random, shape) for name, draw_one in row.draws.items()}


def layer_of(row: Row, **options: Any) -> str:
    """The prototxt of a row's layer, with loss_weight 1 unless given."""
    options = {"loss_weight": 1, **options}
    return python_layer(
        row.module, row.layer, list(row.draws), json.dumps(row.parameters), **options
    )


def expected(row: Row, inputs: Dict[str, Array]) -> Any:
    """The oracle's loss and the gradients by bottom, zero for masks and labels."""
    parameters = {k: v for k, v in row.parameters.items() if k != "check_labels"}
    loss, gradients = row.oracle(*inputs.values(), **parameters)
    by_name = {name: np.zeros(array.shape) for name, array in inputs.items()}
    by_name.update(zip(row.differentiable, gradients))
    return loss, by_name
