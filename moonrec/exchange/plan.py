"""Which versions are compared: their names and folders, settled before anything is computed.

A version is an encoder run (or the folder of its model), `compact` (untrained), or an embedding set. A
trajectory is a training whose epochs were kept: every epoch is a version, and all of them are one family,
since they are no independent draws.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from moonrec.embedding_writer import METADATA_FILE, VECTORS_FILE
from moonrec.errors import UserError
from moonrec.runs import partial_folder

Kind = Literal["encoder", "untrained", "embeddings"]

UNTRAINED = "compact"
FEWEST_VERSIONS, ENOUGH_VERSIONS = 2, 5
IDS_ONLY = "ids-only"
"""The judge without vectors stands beside the versions under this name."""
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._ +-]*")
_EPOCHS, _MODEL, _CONFIG = "epochs", "model", "config.json"


@dataclass(frozen=True)
class Version:
    """One version of the encoder.

    Attributes:
        name: as reports show it; `NAME/EPOCH` in a trajectory.
        path: what stands for it.
        family: versions of one family are checkpoints of one training.
        kind: what stands there.
    """

    name: str
    path: str
    family: str
    kind: Kind

    @property
    def folder(self) -> str:
        """Its name as that of a folder."""
        return self.name.replace("/", "@")

    @property
    def is_epoch(self) -> bool:
        """Whether it is one of a trajectory."""
        return self.name != self.family


def planned_versions(versions: Sequence[str], trajectories: Sequence[str]) -> list[Version]:
    """The versions of `--version NAME=PATH` and `--trajectory NAME=RUN`, in this order.

    Raises:
        UserError: a name that cannot be one or that stands for two, a folder that is no complete encoder or
            embedding set, a training whose epochs were not kept, or fewer than two versions.
    """
    found = []
    for given in versions:
        name, path = _named("--version", given)
        found.append(Version(name, path, name, _kind("--version", given, path)))
    for given in trajectories:
        name, run = _named("--trajectory", given)
        for epoch in _epochs(given, Path(run)):
            found.append(Version(f"{name}/{epoch.name}", str(epoch), name, "encoder"))
    given_names = [one.partition("=")[0] for one in (*versions, *trajectories)]
    for name, count in Counter(given_names).items():
        if count > 1:
            raise UserError(f"{name}: names two versions; give each --version and --trajectory its own name")
    check_count(len(found))
    return found


def check_count(versions: int) -> None:
    """Raise a `UserError` where there is nothing to compare."""
    if versions < FEWEST_VERSIONS:
        raise UserError(
            f"{versions} versions: a rate compares at least {FEWEST_VERSIONS}, and says nothing sure below "
            f"{ENOUGH_VERSIONS}; name more with --version NAME=PATH or --trajectory NAME=RUN"
        )


def planned_steps(compare: Sequence[str], versions: Sequence[Version]) -> list[tuple[str, str]]:
    """The pairs `A:B` of `--compare`: what the step from A to B is worth.

    Raises:
        UserError: not two names of versions, or one name twice.
    """
    pairs = []
    for given in compare:
        # A version's own name has no colon in it.
        before, colon, after = given.partition(":")
        if not colon or before == after:
            raise UserError(f"--compare {given}: expected A:B, the names of two versions")
        for name in (before, after):
            check_version("--compare", name, versions)
        pairs.append((before, after))
    return pairs


def check_version(option: str, name: str, versions: Sequence[Version]) -> None:
    """Raise a `UserError` where no version has this name."""
    names = [version.name for version in versions]
    if name not in names:
        raise UserError(f"{option} {name}: no such version; there are {', '.join(names)}")


def _named(option: str, given: str) -> tuple[str, str]:
    name, equals, path = given.partition("=")
    if not equals or not path or not _NAME.fullmatch(name) or ".." in name:
        raise UserError(
            f"{option} {given}: expected NAME=PATH, the name of letters, digits and . _ + - without .."
        )
    if name == IDS_ONLY:
        raise UserError(f"{option} {given}: {IDS_ONLY} is the judge without vectors; choose another name")
    return name, path


def _kind(option: str, given: str, path: str) -> Kind:
    if path == UNTRAINED:
        return "untrained"
    folder = Path(path)
    if folder.name.endswith(".partial"):
        raise UserError(
            f"{option} {given}: is a run that is not finished; give its command again, then the folder "
            f"{folder.with_suffix('')}"
        )
    if not os.path.isdir(folder):
        unfinished = partial_folder(folder)
        told = f"only the unfinished {unfinished}; give its command again" if unfinished.is_dir() else ""
        raise UserError(
            f"{option} {given}: there is no folder {path}"
            + (f", {told}" if told else f"; expected an encoder run, `{UNTRAINED}` or an embedding set")
        )
    if (folder / VECTORS_FILE).exists() or (folder / METADATA_FILE).exists():
        return "embeddings"
    if (folder / _MODEL / _CONFIG).is_file() or (folder / _CONFIG).is_file():
        return "encoder"
    raise UserError(
        f"{option} {given}: holds neither an encoder ({_MODEL}/{_CONFIG}) nor an embedding set "
        f"({VECTORS_FILE}); the run may be incomplete or of another command"
    )


def _epochs(given: str, run: Path) -> list[Path]:
    """The kept epochs of a training, in their order."""
    folder = run / _EPOCHS
    if not folder.is_dir():
        unfinished = "" if run.is_dir() or not partial_folder(run).is_dir() else ", which is not finished"
        raise UserError(
            f"--trajectory {given}: {folder} is not there{unfinished}; train with `moonrec posttrain "
            "--keep-epochs`"
        )
    epochs = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    for epoch in epochs:
        if not (epoch / _MODEL / _CONFIG).is_file():
            raise UserError(f"--trajectory {given}: {epoch} lacks {_MODEL}/{_CONFIG}; train again")
    if not epochs:
        raise UserError(
            f"--trajectory {given}: {folder} is empty; train with `moonrec posttrain --keep-epochs`"
        )
    return epochs
