"""Who takes part in an evaluation: what is evaluated, and the baselines beside it.

Shapes: W an entrant's own width, D the width at which it is measured.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from encoders.encoder import Encoder
from encoders.evaluation.catalogue import Catalogue, encode_items
from encoders.evaluation.narrowing import Narrowing, principal_directions
from encoders.evaluation.results import MAIN
from encoders.evaluation.working_encoder import WorkingEncoder
from encoders.loading import COMPACT, TINY_MLLM
from encoders.products import EVERYTHING
from moonrec.embedding_set import EmbeddingSet
from moonrec.embedding_writer import METADATA_FILE, VECTORS_FILE
from moonrec.errors import UserError
from moonrec.ids import rows_of
from moonrec.tables import Table

_EXPONENT = np.uint16(0x7C00)


@dataclass(frozen=True)
class Setting:
    """What all entrants have in common: the catalogue, where they compute, and where features are kept."""

    items: Table | None
    device: torch.device
    cache: Path | None


@dataclass(frozen=True)
class Entrant:
    """An encoder, an embedding set, or an encoder with a set as its catalogue.

    Attributes:
        name: `main`, or the baseline's.
        option: how it was given, for messages.
        worker: the encoder; None for an embedding set alone.
        embeddings: the vectors of the catalogue; None where they are encoded.
        narrowing: what vectors of `embeddings` go through; the worker has its own.
    """

    name: str
    option: str
    worker: WorkingEncoder | None
    embeddings: EmbeddingSet | None
    narrowing: Narrowing

    @classmethod
    def of(
        cls, name: str, option: str, encoder: str | None, embeddings: str | None, setting: Setting
    ) -> Entrant:
        """Open what was given, at its own width: that of the set, where there is one.

        Raises:
            UserError: nothing that can be opened, or a set that another encoder made.
        """
        found = _open_set(embeddings) if embeddings is not None else None
        if encoder is None:
            assert found is not None
            return cls(name, option, None, found, Narrowing(found.dimension))
        worker = WorkingEncoder.start(encoder, setting.items, setting.device, setting.cache)
        if found is not None:
            _check_same_encoder(found, worker.encoder)
            worker = worker.at(found.dimension)
        return cls(name, option, worker, found, worker.narrowing)

    @property
    def dim(self) -> int:
        """Width of all its vectors."""
        return self.narrowing.dim

    def fingerprint(self) -> str:
        """Of the encoder, or else of the vectors."""
        if self.worker is not None:
            return self.worker.encoder.fingerprint()
        assert self.embeddings is not None
        return self.embeddings.fingerprint

    def catalogue(self) -> Catalogue:
        """The embedding set, at the entrant's width."""
        embeddings, narrowing = self.embeddings, self.narrowing
        assert embeddings is not None
        if self.dim == embeddings.dimension:
            return Catalogue.of(embeddings)
        return Catalogue(embeddings.ids, lambda: (narrowing(block) for block in embeddings.blocks()))

    def at(self, dim: int, setting: Setting) -> Entrant:
        """The same one at the width `dim`: a prefix where it knows that size, else principal directions.

        Raises:
            UserError: it has no such width.
        """
        if dim > self.dim:
            raise UserError(
                f"--dim {dim}: the vectors of {self.option} have {self.dim} dimensions; ask for "
                "at most that, or for --match-dims"
            )
        if dim == self.dim:
            return self
        if dim in self._sizes():
            narrowing = Narrowing(dim)
        else:
            narrowing = Narrowing(self.dim, principal_directions(self._vectors(setting), dim))
        worker = self.worker.through(narrowing) if self.worker is not None else None
        return replace(self, worker=worker, narrowing=narrowing)

    def _sizes(self) -> Sequence[int]:
        """The widths that its vectors were trained for."""
        if self.worker is not None:
            sizes: Sequence[int] = self.worker.encoder.config.dims
            return sizes
        assert self.embeddings is not None
        known = self.embeddings.metadata.get("matryoshka_sizes")
        return known if isinstance(known, list) else []

    def _vectors(self, setting: Setting) -> Iterable[np.ndarray]:
        if self.embeddings is not None:
            return self.embeddings.blocks()
        assert self.worker is not None
        assert setting.items is not None
        return encode_items(setting.items, self.worker, [EVERYTHING]).shown[EVERYTHING].blocks


def named_baselines(given: Sequence[str]) -> dict[str, str]:
    """Paths by name out of texts `NAME=PATH`.

    Raises:
        UserError: no name or path, a name that is taken, or one that cannot be used.
    """
    found: dict[str, str] = {}
    for text in given:
        name, equals, path = text.partition("=")
        if not (equals and name.strip() and path):
            raise UserError(f"--baseline {text}: expected NAME=PATH, as clip=./clip-run")
        if name == MAIN or any(character in name for character in "/\\"):
            raise UserError(
                f"--baseline {text}: a name has no / or \\, and {MAIN!r} is what is evaluated; choose another"
            )
        if name in found:
            raise UserError(f"--baseline {text}: the name {name!r} is given twice; give each its own")
        found[name] = path
    return found


def open_baseline(name: str, path: str, setting: Setting) -> Entrant:
    """A baseline from a path: an embedding set where one stands there, else an encoder.

    Raises:
        UserError: neither can be opened, or an encoder has no catalogue to encode.
    """
    option = f"--baseline {name}={path}"
    is_set = all(os.path.isfile(os.path.join(path, file)) for file in (METADATA_FILE, VECTORS_FILE))
    if not (is_set or setting.items is not None or path in (COMPACT, TINY_MLLM) or os.path.exists(path)):
        raise UserError(
            f"{option}: no such embedding set; give a folder that `moonrec export` wrote, or an encoder "
            "beside --items"
        )
    if not is_set and setting.items is None:
        raise UserError(f"{option}: an encoder needs a catalogue to search; name it with --items")
    try:
        return Entrant.of(name, option, None if is_set else path, path if is_set else None, setting)
    except UserError as error:
        raise UserError(f"{option}: {error}") from error


def check_same_catalogue(
    entrant: Entrant, ids: pa.Array | pa.ChunkedArray, item_ids: pa.Array | None = None
) -> dict[str, int]:
    """How many of the catalogue's `ids` an entrant lacks, how many others it has, and how many are shared.

    An encoder has all `item_ids`; where these are not given it has what is asked for, which tells nothing.

    Raises:
        UserError: more than half of either: it is of another catalogue.
    """
    own = item_ids if entrant.embeddings is None else entrant.embeddings.ids
    if own is None:
        return {}
    missing, others = int((rows_of(ids, own) < 0).sum()), int((rows_of(own, ids) < 0).sum())
    if 2 * missing > len(ids) or 2 * others > len(own):
        raise UserError(
            f"{entrant.option}: holds vectors of another catalogue: it lacks {missing:,} of {len(ids):,} "
            f"items and has {others:,} that the catalogue lacks; export it from the same --items"
        )
    return {"missing": missing, "others": others, "shared": len(ids) - missing}


def _open_set(path: str) -> EmbeddingSet:
    """The embedding set, all of its vectors looked at: one that is not finite spoils every ranking."""
    found = EmbeddingSet.open(path)
    first_row = 0
    for block_NW in found.blocks():
        # Infinite and not-a-number are the two float16 with every bit of the exponent set.
        if (block_NW.view(np.uint16) & _EXPONENT).max(initial=0) == _EXPONENT:
            row = int(np.argmin(np.isfinite(block_NW).all(axis=1)))
            name = found.ids[first_row + row].as_py()
            raise UserError(
                f"{path}: the vector of {name!r} holds numbers that are not finite; export or import the "
                "embeddings again"
            )
        first_row += len(block_NW)
    return found


def _check_same_encoder(embeddings: EmbeddingSet, encoder: Encoder) -> None:
    if embeddings.metadata.get("encoder_fingerprint") != encoder.fingerprint():
        raise UserError(
            f"{embeddings.path}: was not made by this encoder (fingerprints differ), so its vectors cannot "
            "be compared with the encoder's queries; export it again, or name the encoder that made it"
        )
