"""A loss in a net spec: its keywords are parameters of the loss or fields of its layer."""

import json
from typing import Any, Dict, Mapping, Optional, Sequence, Type

from caffe_losses import parameters
from caffe_losses.import_caffe import caffe
from caffe_losses.parameters import Number, Parameter, did_you_mean, plain, shown

# The fields of Caffe's LayerParameter that mean something for a loss, beside loss_weight.
LAYER_FIELDS = ("name", "phase", "propagate_down", "include", "exclude")
LOSS_WEIGHT = Number(default=1)


def spec_of(
    layer: Type[Any],
    bottoms: Sequence[Any],
    loss_weight: Optional[float],
    keywords: Mapping[str, object],
) -> Any:
    """The top of a loss in a net spec.

    Keywords that are parameters of the loss go to its param_str, LAYER_FIELDS to the layer. Raises
    ValueError or TypeError for a wrong parameter, for an unknown keyword, and for a field that a
    Python layer never sees.
    """
    name, known = layer.__name__, layer.loss.parameters
    given, fields = {}, {}
    for keyword, value in keywords.items():
        if keyword in known:
            given[keyword] = plain(value)
        elif keyword in LAYER_FIELDS:
            fields[keyword] = plain(value)
        else:
            raise refused(name, keyword, known)
    parameters.checked(name, given, known)
    return caffe.layers.Python(
        *bottoms,
        module=layer.__module__,
        layer=name,
        param_str=param_str(given, known),
        loss_weight=parameters.checked_value(name, "loss_weight", plain(loss_weight), LOSS_WEIGHT),
        **{field: value for field, value in fields.items() if value is not None},
    )


def param_str(given: Dict[str, Any], known: Mapping[str, Parameter]) -> str:
    """The parameters as JSON, without those that are left to their default by None."""
    written = {
        key: value
        for key, value in given.items()
        if value is not None or not known[key].none_means_default
    }
    return json.dumps(written, default=float) if written else ""


def refused(name: str, keyword: str, known: Mapping[str, Parameter]) -> Exception:
    """The error for a keyword that is neither a parameter nor a field that means something."""
    expected = (
        f"known parameters: {', '.join(known) or 'none'}; "
        f"layer fields: loss_weight, {', '.join(LAYER_FIELDS)}"
    )
    if keyword not in caffe.proto.caffe_pb2.LayerParameter.DESCRIPTOR.fields_by_name:
        hint = did_you_mean(keyword, [*known, "loss_weight", *LAYER_FIELDS])
        return ValueError(f"{name}: unknown parameter {shown(keyword)}{hint} ({expected})")
    advice = {
        "bottom": "give the bottoms as positional arguments",
        "loss_param": "give normalization and ignore_label as keywords, where the loss has them",
        "python_param": "give the parameters as keywords; module and layer are this class",
        "top": "the net spec names it: net.loss = ...",
        "transform_param": "it belongs to the data layer",
    }.get(keyword, "leave it out")
    return ValueError(f"{name}: {keyword} has no effect on a Python loss: {advice} ({expected})")
