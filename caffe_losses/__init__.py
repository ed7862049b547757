"""Loss layers for imbalanced targets in Caffe, and what they are made of.

The layers are in `pylayerUtils` and `sigmoid_ce_weight_layer`, whose names a prototxt gives in its
`python_param`, and all of them in `caffe_losses.layers`. The losses as plain functions of arrays,
without Caffe, are in `caffe_losses.losses`.

Each module imports only from those before it:

    elementary      exp, ln(1 + e), where, ...: of arrays
    formulas        value and derivative of each pointwise loss
    weights         class, element and normalization weights
    loops           the loops over blobs, of NumPy and of Numba
    checks          what bottoms must be, and the errors
    parameters      param_str
    loss            a loss as a function
    softmax_losses  those of a softmax
    overlap_losses  those of sums and ranks
    losses          the catalogue
    import_caffe    caffe, or an error that says how to get it
    build_net       a net from a prototxt
    progress        the progress bar of the commands
    batch_counts    counts of a batch that several ranks share
    net_spec        a loss in a net spec
    layer           what all loss layers have in common
    layers          every layer under one name

The commands `gradient_check`, `class_counts` and `data_parallel` use no more of these than
parameters, import_caffe, build_net, progress and batch_counts.
"""

__version__ = "1.0.0"
