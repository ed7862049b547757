"""The command `python3 -m caffe_losses --version`."""

import argparse

from caffe_losses import __version__

COMMANDS = """
the commands of this package:
  python3 -m caffe_losses.gradient_check --help
  python3 -m caffe_losses.data_parallel --help
  python3 -m caffe_losses.class_counts --help
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python3 -m caffe_losses",
        description="Loss layers for imbalanced targets in Caffe.",
        epilog=COMMANDS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--version", action="store_true", help="print the version and the engine, and end"
    )
    if parser.parse_args().version:
        print(f"caffe-losses {__version__}, {engine()}")
    else:
        parser.print_help()


def engine() -> str:
    """What runs the losses here, with its version."""
    try:
        import numpy
    except ImportError:
        return "no NumPy here"
    from caffe_losses.loops import engine

    if engine.name() == "numpy":
        return f"NumPy {numpy.__version__}"
    import numba

    return f"Numba {numba.__version__} (NumPy {numpy.__version__})"


if __name__ == "__main__":
    main()
