"""Commands that tests start."""

import os
import subprocess
from pathlib import Path
from typing import Any, Dict, Sequence, Union

ROOT = Path(__file__).resolve().parents[2]
Paths = Sequence[Union[str, Path]]


def environment(python_path: Paths = (ROOT, ROOT / "tests"), **variables: str) -> Dict[str, str]:
    """This process's environment with these variables, and folders to import from first."""
    folders = [*map(str, python_path), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(folders), **variables}


def run(
    command: Sequence[str],
    folder: Path = ROOT,
    python_path: Paths = (ROOT, ROOT / "tests"),
    timeout: float = 600,
    stderr: int = subprocess.PIPE,
    **variables: str,
) -> Any:
    """The finished command, which ran in a folder; its output is text."""
    return subprocess.run(
        list(command),
        cwd=str(folder),
        env=environment(python_path, **variables),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=stderr,
        timeout=timeout,
        universal_newlines=True,
    )


def caffe_train(solver: Path, **options: Any) -> Any:
    """The finished `caffe train` of a solver file, run in the file's folder; stderr is its log."""
    command = ["caffe", "train", "--solver", str(solver)]
    return run(command, **{"folder": solver.parent, "GLOG_minloglevel": "0", **options})


def write_solver(folder: Path, net: str, settings: str) -> Path:
    """The path of a solver that is written to a folder with its net, and keeps its snapshots there.

    The snapshots begin with `snapshot`.
    """
    (folder / "net.prototxt").write_text(net)
    solver = folder / "solver.prototxt"
    solver.write_text(
        f'net: "{folder}/net.prototxt" snapshot_prefix: "{folder}/snapshot" {settings}\n'
    )
    return solver
