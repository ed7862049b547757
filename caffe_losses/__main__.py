"""The command `python3 -m caffe_losses --version`."""

import argparse

from caffe_losses import __version__


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python3 -m caffe_losses",
        description="Loss layers for imbalanced targets in Caffe.",
        epilog="The commands of this package: python3 -m caffe_losses.gradient_check --help, "
        "python3 -m caffe_losses.data_parallel --help, python3 -m caffe_losses.class_counts --help.",
    )
    parser.add_argument("--version", action="version", version=f"caffe-losses {__version__}")
    parser.parse_args()
    parser.print_help()


if __name__ == "__main__":
    main()
