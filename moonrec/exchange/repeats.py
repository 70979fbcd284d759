"""Versions that hold the same vectors: counted twice they would pass for two independent ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from moonrec.errors import UserError
from moonrec.exchange.plan import Version, check_count


@dataclass(frozen=True)
class Distinct:
    """The versions of which no two are the same.

    Attributes:
        versions: in their order.
        fingerprints: of each.
        kept_as: for the name of every version the one that it is kept under, its own for most.
        notes: which were the same.
    """

    versions: Sequence[Version]
    fingerprints: Sequence[str]
    kept_as: Mapping[str, str]
    notes: Sequence[str]

    def pairs(self, given: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
        """Steps between versions that are kept.

        Raises:
            UserError: one is between two that are the same.
        """
        for before, after in given:
            if self.kept_as[before] == self.kept_as[after]:
                raise UserError(
                    f"--compare {before}:{after}: both hold the same vectors; name two that differ"
                )
        return [(self.kept_as[before], self.kept_as[after]) for before, after in given]


def distinct(versions: Sequence[Version], fingerprints: Sequence[str]) -> Distinct:
    """Keep the first of those that are the same.

    The epochs that several trainings start from are one encoder, so that they may repeat a version; what was
    named twice with `--version` is a mistake. A version that is an epoch of a training is of its family, as
    the run of that training is.

    Args:
        versions: all.
        fingerprints: of each, by content.

    Raises:
        UserError: a version was given twice, or fewer than two are left.
    """
    first: dict[str, Version] = {}
    kept_as, notes = {}, []
    for version, fingerprint in zip(versions, fingerprints, strict=True):
        same = first.setdefault(fingerprint, version)
        kept_as[version.name] = same.name
        if same is version:
            continue
        if not version.is_epoch and not same.is_epoch:
            raise UserError(
                f"--version {version.name}: holds the same vectors as {same.name}, which would count twice; "
                "leave one out"
            )
        if version.is_epoch and not same.is_epoch:
            first[fingerprint] = replace(same, family=version.family)
        notes.append(f"{version.name} is the same encoder as {same.name} and counts once, as {same.name}.")
    check_count(len(first))
    return Distinct(list(first.values()), list(first), kept_as, notes)
