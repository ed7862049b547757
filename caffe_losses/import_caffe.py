"""`caffe`, or an ImportError that says how to get it."""

try:
    import caffe
except ImportError as error:
    caffe = None
    reason = str(error)
else:
    reason = "the module found is not Caffe (PyPI's package `caffe` is an empty placeholder)"

if not hasattr(caffe, "Layer"):
    raise ImportError(
        f"the loss layers need Caffe with its Python layer: {reason}. Debian 11 has it as the "
        f"package python3-caffe, Ubuntu 20.04 as python3-caffe-cpu; from a checkout of "
        f"caffe-losses, `tools/with-caffe COMMAND` runs any command where `import caffe` works; a "
        f"Caffe of your own is found when its python folder is on PYTHONPATH."
    )
