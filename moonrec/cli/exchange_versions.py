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

# Ours: a set that lacks more than this share of the catalogue is one of another catalogue.
_LEAST_COVERAGE = 0.5
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
        coverage: share of the catalogue that it has vectors for; 1 for encoders.
        foreign: its vectors of items that the catalogue does not have.
    """

    version: Version
    width: int
    fingerprint: str
    coverage: float = 1.0
    foreign: int = 0


def opened(version: Version, catalogue: Catalogue) -> Opened:
    """Look at a version.

    Raises:
        UserError: it cannot be read, or its vectors are those of another catalogue.
    """
    if version.kind == "embeddings":
        return _opened_set(version, catalogue)
    from encoders.loading import load_encoder

    encoder, ready = load_encoder(version.path, catalogue.items)
    if version.kind == "untrained":
        # It is fitted to the catalogue, whose fingerprint stands beside it.
        return Opened(version, encoder.config.dim, f"{UNTRAINED} {encoder.config.dim}")
    return Opened(
        version, encoder.config.dim, encoder.fingerprint() if ready else folder_digest(Path(version.path))
    )


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
            f"of {catalogue.path} ({examples}, …), so it is of another catalogue; embed this one"
        )
    foreign = len(found) - int(np.count_nonzero(rows_N))
    return Opened(version, found.dimension, found.fingerprint, coverage, foreign)


@dataclass(frozen=True)
class VersionSteps:
    """How the vectors and the evaluation of a version are computed.

    Attributes:
        catalogue: what is encoded.
        dim: the common width D.
        searches: path of the test searches, if there are any.
        tasks: of `moonrec evaluate`; None: all that the data allow.
        domain_level: of categories.
    """

    catalogue: Catalogue
    dim: int
    searches: str | None
    tasks: tuple[str, ...] | None
    domain_level: int | None

    def vectors(self, version: Version, out: Path) -> None:
        """Write a version's embedding set of width D, over the catalogue's items."""
        if version.kind == "embeddings":
            write_cut(EmbeddingSet.open(version.path), self.dim, self.catalogue.ids, out)
            return
        from encoders.export import ExportConfig, export

        export(
            ExportConfig(
                encoder=version.path,
                items=self.catalogue.path,
                out=str(out),
                modality=self.catalogue.modality,
                dim=self.dim,
                device=self.catalogue.device,
                cache=self.catalogue.cache,
            )
        )

    def evaluate(self, version: Version, vectors: Path, out: Path) -> None:
        """Measure a version on the test searches."""
        from encoders.evaluate import EvaluateConfig, evaluate

        assert self.searches is not None
        evaluate(
            EvaluateConfig(
                searches=self.searches,
                out=str(out),
                items=self.catalogue.path,
                encoder=None if version.kind == "embeddings" else version.path,
                embeddings=str(vectors),
                tasks=self.tasks,
                device=self.catalogue.device,
                cache=self.catalogue.cache,
                domain_level=self.domain_level,
            )
        )


def write_cut(found: EmbeddingSet, dim: int, ids: pa.ChunkedArray, out: Path) -> None:
    """Write the vectors of known items at the width `dim`.

    A width that the set was trained for is a prefix (Matryoshka, https://arxiv.org/abs/2205.13147); at any
    other one the vectors go to their principal directions, which keep most of their dot products.
    """
    from encoders.evaluation.narrowing import Narrowing, principal_directions

    cut = Narrowing(found.dimension)
    if dim < found.dimension:
        known = found.metadata.get("matryoshka_sizes")
        if isinstance(known, list) and dim in known:
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
