import re
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).resolve().parent


def version() -> str:
    # Read, not imported: building must work where NumPy is not installed yet.
    text = (here / "caffe_losses" / "__init__.py").read_text(encoding="utf-8")
    return re.search(r'^__version__ = "(.+)"$', text, re.MULTILINE).group(1)


setup(
    name="caffe-losses",
    version=version(),
    description="Imbalance-aware loss layers for pycaffe",
    long_description=(here / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="BSD-2-Clause",
    python_requires=">=3.6",
    install_requires=["numpy>=1.13"],
    extras_require={"numba": ["numba>=0.52"]},
    packages=find_packages(include=["caffe_losses", "caffe_losses.*"]),
    package_data={"caffe_losses": ["py.typed"]},
    py_modules=[
        "pylayerUtils",
        "sigmoid_ce_weight_layer",
        "SigmoidCrossEntropyWeightLossLayer",
    ],
)
