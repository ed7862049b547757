"""What is built from the checkout, and `python3 -m caffe_losses`."""

import ast
import email
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest

import caffe_losses
from support.layers import LAYERS
from support.processes import ROOT, run

# The last one is a second name of one of the others, which published nets use.
PUBLIC_MODULES = {layer.module.replace(".", "/") + ".py" for layer in LAYERS}
PUBLIC_MODULES.add("SigmoidCrossEntropyWeightLossLayer.py")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder of a wheel and an sdist, built in a copy so that the checkout stays clean."""
    copy = tmp_path_factory.mktemp("source") / "caffe-losses"
    ignored = shutil.ignore_patterns(".*", "__pycache__", "build", "dist", "*.egg-info")
    shutil.copytree(str(ROOT), str(copy), ignore=ignored)
    command = [sys.executable, "setup.py", "-q", "sdist", "bdist_wheel"]
    subprocess.run(command, cwd=str(copy), check=True)
    return copy / "dist"


@pytest.fixture(scope="module")
def wheel(built):
    (path,) = built.glob("*.whl")
    with zipfile.ZipFile(str(path)) as archive:
        yield archive


@pytest.fixture(scope="module")
def sdist_files(built):
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(str(path)) as archive:
        return {name.partition("/")[2] for name in archive.getnames()}


def sources_of_package():
    return {str(path.relative_to(ROOT)) for path in ROOT.glob("caffe_losses/**/*.py")}


def test_the_wheel_has_the_public_modules_and_the_package_and_no_more(wheel):
    files = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert files == {*PUBLIC_MODULES, *sources_of_package(), "caffe_losses/py.typed"}


def test_the_wheel_fits_any_machine(built):
    assert (built / f"caffe_losses-{caffe_losses.__version__}-py3-none-any.whl").exists()


def test_the_wheel_has_the_licence(wheel):
    (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/LICENSE")]
    assert wheel.read(name) == (ROOT / "LICENSE").read_bytes()


def test_the_metadata_says_what_the_package_is_and_needs(wheel):
    (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    metadata = email.message_from_string(wheel.read(name).decode())
    assert metadata["Name"] == "caffe-losses"
    assert metadata["Version"] == caffe_losses.__version__
    assert metadata["License"] == "BSD-2-Clause"
    assert metadata["Requires-Python"] == ">=3.6"
    # Caffe is not on PyPI; what is there under its name is an empty placeholder.
    required = ["numpy (>=1.13)", "numba (>=0.52) ; extra == 'numba'"]
    assert metadata.get_all("Requires-Dist") == required
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert "caffe-losses" in metadata.get_payload()


def test_the_sdist_has_all_that_a_build_needs(sdist_files):
    needed = {"setup.py", "pyproject.toml", "README.md", "LICENSE", "caffe_losses/py.typed"}
    assert {*needed, *PUBLIC_MODULES, *sources_of_package()} <= sdist_files


def test_a_wheel_built_from_the_sdist_is_the_wheel(built, wheel, tmp_path):
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(str(path)) as archive:
        archive.extractall(str(tmp_path))
    (source,) = tmp_path.iterdir()
    command = [sys.executable, "setup.py", "-q", "bdist_wheel"]
    subprocess.run(command, cwd=str(source), check=True)
    (path,) = (source / "dist").glob("*.whl")
    with zipfile.ZipFile(str(path)) as archive:
        assert sorted(archive.namelist()) == sorted(wheel.namelist())


def run_module(*arguments, folder):
    """`python3 -m caffe_losses` where there is neither Caffe nor NumPy."""
    return run([sys.executable, "-S", "-m", "caffe_losses", *arguments], folder, [ROOT])


def test_the_version_is_printed_without_caffe(tmp_path):
    done = run_module("--version", folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"caffe-losses {caffe_losses.__version__}, no NumPy here\n"


def test_the_commands_of_the_package_are_listed_and_exist(tmp_path):
    done = run_module(folder=tmp_path)
    assert done.returncode == 0
    for command in ("gradient_check", "data_parallel", "class_counts"):
        assert f"python3 -m caffe_losses.{command}" in done.stdout
        path = ROOT / "caffe_losses" / command
        assert (path / "__main__.py").exists() or path.with_suffix(".py").exists()


def test_an_unknown_option_is_an_error(tmp_path):
    done = run_module("--verison", folder=tmp_path)
    assert done.returncode == 2
    assert "unrecognized arguments: --verison" in done.stderr


def test_the_changelog_begins_with_this_version_and_what_is_not_released():
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = [line for line in changelog.splitlines() if line.startswith("## [")]
    versions.remove("## [Unreleased]")
    assert versions[0].startswith(f"## [{caffe_losses.__version__}] - ")


def imported_by(path):
    """The modules of the package that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("caffe_losses"):
            parts = node.module.split(".")
            found.update(parts[1:2] or [alias.name for alias in node.names])
    return found


def test_each_module_imports_only_from_those_that_the_package_lists_before_it():
    modules = re.findall(r"^    (\w+)  ", caffe_losses.__doc__, re.MULTILINE)
    assert len(modules) > 8
    for number, module in enumerate(modules):
        files = list(ROOT.glob(f"caffe_losses/{module}.py"))
        files += ROOT.glob(f"caffe_losses/{module}/*.py")
        assert files, module
        for path in files:
            allowed = {*modules[:number], module}
            assert imported_by(path) <= allowed, f"{path}: {imported_by(path) - allowed}"
