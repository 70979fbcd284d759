"""Do the installed torch, fbgemm and torchrec belong together? One sentence and one command if not.

TorchRec's own metadata asks for `fbgemm-gpu` whatever torch is installed, so a plain install beside a CPU
build of torch ends in a loader's traceback at import. This module finds that out from the packages' metadata,
before anything is imported.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

TORCH, FBGEMM, TORCHREC = "2.13.0", "1.8.0", "1.8.0"


class BrokenInstallation(ImportError):
    """The installed packages do not work together; the message is one sentence and the mending command."""


@dataclass(frozen=True)
class Problem:
    """Something that does not match, in one sentence, and the command that mends it."""

    sentence: str
    command: str

    def __str__(self) -> str:
        return f"{self.sentence} Mend it with: {self.command}"


def installed(package: str) -> str | None:
    """The installed version of a distribution, without its local part (`+cpu`); None when it is absent."""
    try:
        return importlib.metadata.version(package).split("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return None


def torch_cuda_version() -> str | None:
    """The CUDA version torch was built for, read without importing torch; None on a CPU build."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    version_file = Path(spec.origin).with_name("version.py")
    for line in version_file.read_text(encoding="utf-8").splitlines() if version_file.exists() else []:
        if line.startswith("cuda"):
            value = line.split("=", 1)[1].strip().strip("'\"")
            return None if value == "None" else value
    return None


def find_problems() -> list[Problem]:
    """Every mismatch between torch, fbgemm and torchrec that the packages' metadata shows."""
    pip = f"{Path(sys.executable).name} -m pip"
    torch_version = installed("torch")
    if torch_version is None:
        return [Problem("torch is not installed.", f"{pip} install torch=={TORCH}")]
    problems = []
    if torch_version != TORCH:
        problems.append(
            Problem(
                f"torch {torch_version} is installed, but fbgemm and torchrec {TORCHREC} need torch {TORCH}.",
                f"{pip} install torch=={TORCH}",
            )
        )
    cuda = torch_cuda_version()
    wanted, other = ("fbgemm-gpu", "fbgemm-gpu-cpu") if cuda else ("fbgemm-gpu-cpu", "fbgemm-gpu")
    build = f"a CUDA {cuda} build" if cuda else "a CPU build"
    if installed(other) is not None:
        again = f"{pip} uninstall -y {other} && {pip} install --force-reinstall --no-deps {wanted}=={FBGEMM}"
        problems.append(
            Problem(f"torch is {build}, but {other} is installed, which does not load beside it.", again)
        )
    elif (found := installed(wanted)) != FBGEMM:
        state = f"{wanted} {found} is installed" if found else f"{wanted} is not installed"
        problems.append(
            Problem(
                f"torch is {build} and needs {wanted} {FBGEMM}, but {state}.",
                f"{pip} install {wanted}=={FBGEMM}",
            )
        )
    if (found := installed("torchrec")) != TORCHREC:
        state = f"torchrec {found} is installed" if found else "torchrec is not installed"
        problems.append(
            Problem(
                f"{state}, but torch {TORCH} needs torchrec {TORCHREC}.",
                f"{pip} install --no-deps torchrec=={TORCHREC}",
            )
        )
    return problems


def check_torchrec() -> None:
    """Raise unless torchrec can be imported beside this torch.

    Raises:
        BrokenInstallation: one sentence and the command that mends it, instead of a loader's traceback.
    """
    if problems := find_problems():
        raise BrokenInstallation(" ".join(str(problem) for problem in problems))
    try:
        importlib.import_module("fbgemm_gpu")
        importlib.import_module("torchrec")
    except Exception as error:
        cause = str(error).splitlines()[0] if str(error) else type(error).__name__
        problem = Problem(f"torchrec does not load ({cause}).", "make clean install")
        raise BrokenInstallation(str(problem)) from None


def diagnose() -> dict[str, object]:
    """Versions, devices and problems: what `moonrec doctor` prints."""
    from moonrec.runs import versions

    problems = find_problems()
    if not problems:
        try:
            check_torchrec()
        except BrokenInstallation as error:
            sentence, _, command = str(error).partition(" Mend it with: ")
            problems.append(Problem(sentence, command))
    devices = [f"cpu ({os.cpu_count()} cores)"]
    if installed("torch"):
        import torch

        devices += [
            f"cuda:{index} ({torch.cuda.get_device_name(index)})"
            for index in range(torch.cuda.device_count())
        ]
    return {
        "versions": versions(),
        "torch_build": f"CUDA {torch_cuda_version()}" if torch_cuda_version() else "CPU",
        "devices": devices,
        "problems": [asdict(problem) for problem in problems],
    }
