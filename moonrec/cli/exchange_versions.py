"""Versions as they stand on disk: what they are, at which width, and how their cells are computed.

Shapes: N items, M of one block, W a set's own width, D the common one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from moonrec.cli.study_inputs import folder_digest
from moonrec.embedding_set import EmbeddingSet, EmbeddingSetWriter
from moonrec.errors import UserError
from moonrec.exchange.plan import UNTRAINED, Version
from moonrec.ids import rows_of
from moonrec.tables import Table

# Ours: among fewer items it is easier to find the right one, and the judge has less to go by.
_LEAST_COVERAGE = 0.99
_EXAMPLES = 3


@dataclass(frozen=True)
class Catalogue:
    """What all versions encode, and where."""

    items: Table
    path: str
    modality: str
    device: str
    cache: str | None

    @cached_property
    def ids(self) -> pa.ChunkedArray:
        """The catalogue's item ids (N)."""
        return self.items.read(["item_id"])["item_id"]

    @cached_property
    def device_kind(self) -> str:
        """`auto` is another device on another machine, and numbers differ with the device."""
        from encoders.precision import pick_device

        return pick_device(self.device).type


@dataclass(frozen=True)
class Opened:
    """A version and what is known of it before anything is computed.

    Attributes:
        version: it.
        width: of its vectors.
        fingerprint: by content.
        sizes: widths below its own that it was trained for.
        coverage: share of the catalogue that it has vectors for; 1 for encoders.
        foreign: its vectors of items that the catalogue does not have.
    """

    version: Version
    width: int
    fingerprint: str
    sizes: tuple[int, ...] = ()
    coverage: float = 1.0
    foreign: int = 0

    def is_prefix(self, dim: int) -> bool:
        """Whether the first `dim` components are vectors of that width."""
        return dim == self.width or dim in self.sizes


def opened(version: Version, catalogue: Catalogue) -> Opened:
    """Look at a version.

    Raises:
        UserError: it cannot be read, or it has no vectors for a part of the catalogue.
    """
    if version.kind == "embeddings":
        return _opened_set(version, catalogue)
    from encoders.loading import load_encoder

    encoder, ready = load_encoder(version.path, catalogue.items)
    if version.kind == "untrained":
        # It is fitted to the catalogue, whose fingerprint stands beside it.
        fingerprint = f"{UNTRAINED} {encoder.config.dim}"
    else:
        fingerprint = encoder.fingerprint() if ready else folder_digest(Path(version.path))
    return Opened(version, encoder.config.dim, fingerprint, tuple(encoder.config.dims))


def check_widths(found: Sequence[Opened], dim: int | None) -> int:
    """The width of all vectors.

    Raises:
        UserError: the versions' widths differ and none was chosen, or one is narrower than the chosen one.
    """
    narrowest = min(found, key=lambda one: one.width)
    widest = max(found, key=lambda one: one.width)
    if dim is None:
        if narrowest.width != widest.width:
            raise UserError(
                f"--version {widest.version.name} has {widest.width} dimensions, {narrowest.version.name} "
                f"{narrowest.width}: the wider might win by its width; --dim {narrowest.width} cuts all"
            )
        return narrowest.width
    if dim > narrowest.width:
        raise UserError(
            f"--dim {dim}: --version {narrowest.version.name} has {narrowest.width} dimensions; ask for at "
            "most that"
        )
    return dim


def _opened_set(version: Version, catalogue: Catalogue) -> Opened:
    found = EmbeddingSet.open(version.path)
    rows_N = found.rows(catalogue.ids)
    coverage = EmbeddingSet.coverage(rows_N)
    if coverage < _LEAST_COVERAGE:
        missing = catalogue.ids.filter(pa.array(rows_N == 0))
        examples = ", ".join(missing.slice(0, _EXAMPLES).to_pylist())
        raise UserError(
            f"--version {version.name}={version.path}: lacks {len(missing):,} of the {len(rows_N):,} items "
            f"of {catalogue.path} ({examples}, …), so it would search among fewer than the others; embed "
            f"at least {_LEAST_COVERAGE:.0%}"
        )
    foreign = len(found) - int(np.count_nonzero(rows_N))
    return Opened(version, found.dimension, found.fingerprint, _sizes(found), coverage, foreign)


def _sizes(found: EmbeddingSet) -> tuple[int, ...]:
    known = found.metadata.get("matryoshka_sizes")
    return tuple(known) if isinstance(known, list) else ()


@dataclass(frozen=True)
class VersionSteps:
    """How the vectors and the evaluation of a version are computed.

    Attributes:
        catalogue: what is encoded.
        dim: the common width D.
        searches: path of the test searches, if there are any.
        tasks: of `moonrec evaluate`; None: all that the data allow.
        domain_level: of categories.
        projected: names of the encoders that were not trained for D.
    """

    catalogue: Catalogue
    dim: int
    searches: str | None
    tasks: tuple[str, ...] | None
    domain_level: int | None
    projected: frozenset[str] = frozenset()

    def vectors(self, version: Version, out: Path) -> None:
        """Write a version's embedding set of width D, over the catalogue's items."""
        if version.kind == "embeddings":
            write_cut(EmbeddingSet.open(version.path), self.dim, self.catalogue.ids, out)
            return
        if version.name not in self.projected:
            self._export(version, self.dim, out)
            return
        self._export(version, None, _whole(out))
        write_cut(EmbeddingSet.open(_whole(out)), self.dim, self.catalogue.ids, out)

    def _export(self, version: Version, dim: int | None, out: Path) -> None:
        from encoders.export import ExportConfig, export

        export(
            ExportConfig(
                encoder=version.path,
                items=self.catalogue.path,
                out=str(out),
                modality=self.catalogue.modality,
                dim=dim,
                device=self.catalogue.device,
                cache=self.catalogue.cache,
            )
        )

    def evaluate(self, version: Version, vectors: Path, out: Path) -> None:
        """Measure a version on the test searches."""
        from encoders.evaluate import EvaluateConfig, evaluate

        assert self.searches is not None
        projected = version.name in self.projected
        if projected and not _whole(vectors).is_dir():
            self._export(version, None, _whole(vectors))
        evaluate(
            EvaluateConfig(
                searches=self.searches,
                out=str(out),
                items=self.catalogue.path,
                encoder=None if version.kind == "embeddings" else version.path,
                # Queries go to the principal directions too, which are those of the whole vectors.
                embeddings=str(_whole(vectors) if projected else vectors),
                dim=self.dim if projected else None,
                tasks=self.tasks,
                device=self.catalogue.device,
                cache=self.catalogue.cache,
                domain_level=self.domain_level,
            )
        )


def _whole(vectors: Path) -> Path:
    """Where the vectors stand that others of a smaller width are made of."""
    return vectors.with_name(f"{vectors.name}-whole")


def write_cut(found: EmbeddingSet, dim: int, ids: pa.ChunkedArray, out: Path) -> None:
    """Write the vectors of known items at the width `dim`.

    A width that the set was trained for is a prefix (Matryoshka, https://arxiv.org/abs/2205.13147); at any
    other one the vectors go to their principal directions, which keep most of their dot products.
    """
    from encoders.evaluation.narrowing import Narrowing, principal_directions

    cut = Narrowing(found.dimension)
    if dim < found.dimension:
        if dim in _sizes(found):
            cut = Narrowing(dim)
        else:
            cut = Narrowing(found.dimension, principal_directions(found.blocks(), dim))
    described: dict[str, Any] = {
        name: value
        for name, value in found.metadata.items()
        if name in ("encoder_fingerprint", "catalogue_fingerprint", "modality")
    }
    first = 0
    with EmbeddingSetWriter(out, dim, {**described, "cut_from": found.fingerprint}) as writer:
        for block_MW in found.blocks():
            ids_M = found.ids.slice(first, len(block_MW)).combine_chunks()
            kept_M = rows_of(ids_M, ids) >= 0
            writer.write(ids_M.filter(pa.array(kept_M)), cut(block_MW[kept_M].astype(np.float32)))
            first += len(block_MW)
