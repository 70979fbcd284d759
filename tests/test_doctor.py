"""What does not match is said in one sentence with the command that mends it, before anything is imported.

The installations are folders of our making, seen by a Python without its site-packages.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from moonrec.doctor import FBGEMM, TORCH, TORCHREC, check_torchrec, diagnose, find_problems

ROOT = Path(__file__).resolve().parent.parent
CPU = {"torch": f"{TORCH}+cpu", "fbgemm-gpu-cpu": FBGEMM, "torchrec": TORCHREC}
CUDA = {"torch": TORCH, "fbgemm-gpu": FBGEMM, "torchrec": TORCHREC}


def install(folder: Path, packages: dict[str, str], cuda: str | None) -> Path:
    """Metadata as pip leaves it, and the one file of torch that tells its build."""
    for name, version in packages.items():
        info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.4\nName: {name}\nVersion: {version}\n")
    if "torch" in packages:
        (folder / "torch").mkdir()
        (folder / "torch" / "__init__.py").write_text("raise ImportError('libtorch.so: torch was imported')")
        (folder / "torch" / "version.py").write_text(
            f"from typing import Optional\n__version__ = '{packages['torch']}'\ndebug = False\n"
            f"cuda: Optional[str] = {cuda!r}\ngit_version = 'cuda'\nhip: Optional[str] = None\n"
        )
    return folder


def python(folder: Path, script: str) -> subprocess.CompletedProcess[str]:
    paths = f"import sys; sys.path[:0] = [{str(folder)!r}, {str(ROOT)!r}]\n"
    return subprocess.run(
        [sys.executable, "-S", "-c", paths + script], capture_output=True, text=True, cwd=folder, timeout=60
    )


def problems_of(folder: Path) -> list[tuple[str, str]]:
    result = python(
        folder,
        "import json\nfrom moonrec.doctor import find_problems\n"
        "print(json.dumps([(p.sentence, p.command) for p in find_problems()]))",
    )
    assert result.returncode == 0, result.stderr
    return [(sentence, command) for sentence, command in json.loads(result.stdout)]


@pytest.mark.parametrize(("packages", "cuda"), [(CPU, None), (CUDA, "13.0")])
def test_packages_that_belong_together_are_no_problem(
    tmp_path: Path, packages: dict[str, str], cuda: str | None
) -> None:
    assert problems_of(install(tmp_path / "site", packages, cuda)) == []


@pytest.mark.parametrize(
    ("packages", "cuda", "said", "mended"),
    [
        # What a plain `pip install torchrec` does beside a CPU build of torch.
        (
            {"torch": TORCH, "fbgemm-gpu": FBGEMM, "torchrec": TORCHREC},
            None,
            ["a CPU build", "fbgemm-gpu is installed"],
            ["uninstall -y fbgemm-gpu ", f"install --force-reinstall --no-deps fbgemm-gpu-cpu=={FBGEMM}"],
        ),
        (
            CPU | {"fbgemm-gpu": FBGEMM},
            None,
            ["a CPU build", "fbgemm-gpu is installed"],
            ["uninstall -y fbgemm-gpu ", f"fbgemm-gpu-cpu=={FBGEMM}"],
        ),
        (
            CPU,
            "13.0",
            ["a CUDA 13.0 build", "fbgemm-gpu-cpu is installed"],
            ["uninstall -y fbgemm-gpu-cpu ", f"--no-deps fbgemm-gpu=={FBGEMM}"],
        ),
        (
            CPU | {"fbgemm-gpu-cpu": "1.9.0"},
            None,
            ["a CPU build", f"needs fbgemm-gpu-cpu {FBGEMM}", "1.9.0"],
            [f"install fbgemm-gpu-cpu=={FBGEMM}"],
        ),
        (
            CUDA | {"fbgemm-gpu": "1.7.0"},
            "12.8",
            ["a CUDA 12.8 build", f"needs fbgemm-gpu {FBGEMM}", "1.7.0"],
            [f"install fbgemm-gpu=={FBGEMM}"],
        ),
        (
            {"torch": TORCH, "torchrec": TORCHREC},
            None,
            ["fbgemm-gpu-cpu is not installed"],
            [f"install fbgemm-gpu-cpu=={FBGEMM}"],
        ),
        (
            CPU | {"torchrec": "1.4.0"},
            None,
            ["torchrec 1.4.0 is installed", f"needs torchrec {TORCHREC}"],
            [f"install --no-deps torchrec=={TORCHREC}"],
        ),
        (
            {"torch": TORCH, "fbgemm-gpu-cpu": FBGEMM},
            None,
            ["torchrec is not installed"],
            [f"install --no-deps torchrec=={TORCHREC}"],
        ),
        (
            CPU | {"torch": "2.12.1"},
            None,
            ["torch 2.12.1 is installed", f"need torch {TORCH}"],
            [f"install torch=={TORCH}"],
        ),
        (
            {"fbgemm-gpu-cpu": FBGEMM, "torchrec": TORCHREC},
            None,
            ["torch is not installed"],
            [f"install torch=={TORCH}"],
        ),
    ],
)
def test_each_mismatch_is_one_sentence_and_one_command(
    tmp_path: Path, packages: dict[str, str], cuda: str | None, said: list[str], mended: list[str]
) -> None:
    found = problems_of(install(tmp_path / "site", packages, cuda))
    assert len(found) == 1
    sentence, command = found[0]
    assert "\n" not in sentence + command
    assert sentence.endswith(".")
    assert all(part in sentence for part in said), sentence
    assert all(part in command for part in mended), command


def test_mismatches_that_do_not_cause_each_other_are_told_apart(tmp_path: Path) -> None:
    packages = {"torch": "2.12.1", "fbgemm-gpu": FBGEMM, "torchrec": "1.4.0"}
    assert len(problems_of(install(tmp_path / "site", packages, None))) == 3


@pytest.mark.parametrize("name", ["ctr", "ctr.train"])
def test_importing_ctr_beside_the_wrong_fbgemm_says_the_sentence(tmp_path: Path, name: str) -> None:
    site = install(tmp_path / "site", CUDA, None)
    ((sentence, command),) = problems_of(site)
    result = python(
        site, f"try:\n    import {name}\nexcept ImportError as error:\n    print(error)\n    raise"
    )
    assert result.returncode == 1
    assert result.stdout == f"{sentence} Mend it with: {command}\n"
    assert ".so" not in result.stderr
    assert "During handling" not in result.stderr
    assert result.stderr.splitlines()[-1].endswith(result.stdout.strip())


def test_libraries_that_fail_to_load_are_one_sentence_too(tmp_path: Path) -> None:
    """Metadata that match, and a file that is broken all the same."""
    site = install(tmp_path / "site", CPU, None)
    (site / "fbgemm_gpu").mkdir()
    (site / "fbgemm_gpu" / "__init__.py").write_text("raise OSError('undefined symbol: _ZN3c10\\nand more')")
    result = python(site, "import ctr")
    assert result.returncode == 1
    last = result.stderr.splitlines()[-1]
    assert "torchrec does not load (undefined symbol: _ZN3c10). Mend it with: make clean install" in last
    assert "During handling" not in result.stderr


def test_this_installation_is_sound() -> None:
    assert find_problems() == []
    check_torchrec()


def test_diagnose_tells_versions_build_and_devices() -> None:
    found = diagnose()
    assert found["problems"] == []
    assert isinstance(found["versions"], dict)
    assert {"moonrec", "python", "torch", "torchrec"} <= set(found["versions"])
    assert isinstance(found["devices"], list)
    assert found["devices"][0].startswith("cpu (")
    assert str(found["torch_build"]).split()[0] in ("CPU", "CUDA")
    json.dumps(found)
