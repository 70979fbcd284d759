"""Virtual environments that rivals run in, made once and kept in a cache folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

TORCH = "2.13.0"
FUXICTR, RECHUB = "2.3.10", "0.9.0"
# torch-rechub's wheel pins nothing; these are what its dependencies were when the numbers were taken.
_OF_RECHUB = ["numpy==2.4.6", "pandas==3.1.1", "scikit-learn==1.9.1"]


def fuxictr_python(cache: Path) -> Path:
    """The interpreter of an environment with FuxiCTR, which is made if it is not there or not complete.

    Args:
        cache: a folder of environments, one per pair of versions.

    Raises:
        SystemExit: the environment cannot be made; pip's own words stand above.
    """
    return _environment(cache, f"fuxictr-{FUXICTR}", [f"fuxictr=={FUXICTR}"])


def rechub_python(cache: Path) -> Path:
    """Likewise with torch-rechub."""
    return _environment(cache, f"torch-rechub-{RECHUB}", [f"torch-rechub=={RECHUB}", *_OF_RECHUB])


def _environment(cache: Path, name: str, packages: Sequence[str]) -> Path:
    folder = cache / f"{name}-torch-{TORCH}"
    python = folder / "bin" / "python"
    complete = folder / ".complete"
    if not complete.is_file():
        shutil.rmtree(folder, ignore_errors=True)
        print(f"making {folder}", file=sys.stderr)
        _call([sys.executable, "-m", "venv", str(folder)])
        _call([str(python), "-m", "pip", "install", "--quiet", f"torch=={TORCH}", *packages])
        complete.touch()
    return python


def _call(command: list[str]) -> None:
    # A PYTHONPATH or an active environment of the caller's must not shine through.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    if subprocess.run(command, env=environment, check=False).returncode:
        raise SystemExit(f"failed: {' '.join(command)}")
