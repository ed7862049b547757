"""What the loss layers are made of.

The layers themselves live in the public modules ``pylayerUtils`` and ``sigmoid_ce_weight_layer``,
whose names a prototxt gives in its ``python_param``.
"""

__version__ = "1.0.0"
