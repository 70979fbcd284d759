"""From a catalogue to a frozen embedding set, by one process or by many under `torchrun`.

The catalogue is cut into parts; every process takes the next one that nobody has, and its vectors are written
to `OUT.partial`. When all parts are there the main process joins them in the order of the catalogue. What a
part's vectors are does not depend on who made it, so the set has the same bytes whatever the number of
processes (with the same number of threads each). A killed export goes on with the parts that are missing.
With an older set of the same encoder, only products that are new or changed are encoded.

Memory does not grow with the catalogue, except for the ids and, with an older set, 32 bytes per product.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

from encoders.catalogue_parts import PartReader, parts_of
from encoders.encoder import Encoder
from encoders.encoding_stream import BATCH_ROWS, Cost, encode_stream, read_ahead
from encoders.export_join import Totals, joined
from encoders.export_parts import PartStore
from encoders.export_update import OlderSet
from encoders.loading import cache_folder, load_encoder
from encoders.look import Look
from encoders.part_builder import PartBuilder
from encoders.precision import has_fast_bf16, pick_device
from encoders.processes import Processes
from encoders.products import MODALITIES, BrokenImages, iter_items, view_of
from encoders.raw_products import shown
from moonrec.embedding_writer import refuse_other_content
from moonrec.errors import UserError
from moonrec.output_place import refuse_inside_inputs
from moonrec.progress import progress
from moonrec.runs import identity_of
from moonrec.tables import ITEMS, open_table

# A multiple of a shard's rows, so that the feature cache knows the shards from training. Between two parts
# the pipeline runs empty, and a kill costs every process one part.
PART_ROWS = 4096


@dataclass(frozen=True)
class ExportConfig:
    """Options of `moonrec export`, with the names of the flags.

    Attributes:
        encoder: a run folder, a checkpoint, or an untrained encoder by name.
        items: the catalogue.
        out: the embedding set to write; under `torchrun` on a disk that all processes see.
        modality: what is shown of a product: multimodal, image or text.
        dim: keep only the first so many dimensions.
        update: an older set of the same encoder, modality and dimension, to copy unchanged products from.
        device: where to compute.
        cache: folder of the feature cache (None: the default one, "": none).
    """

    encoder: str
    items: str
    out: str
    modality: str = "multimodal"
    dim: int | None = None
    update: str | None = None
    device: str = "auto"
    cache: str | None = None


def export(config: ExportConfig) -> dict[str, Any]:
    """Encode a catalogue and write its embedding set; returns counts and what it cost.

    Products that show nothing in the chosen modality are left out (not covered), counted as `empty`; pictures
    that cannot be used are counted where they are shown. Under `torchrun` only the main process returns
    anything.

    Vectors copied by `update` are bit for bit those of the older set. A product that is encoded among others
    than before may differ in the last bits of float32, which float16 hides nearly always (cosine > 0.9999).
    Parts that a killed export left are trusted when encoder, tables, options and versions are the same;
    picture files that the catalogue names by path are not looked at again for them.

    Raises:
        UserError: no such encoder or modality, `dim` larger than the encoder's, an older set that does not
            fit, duplicate ids, an output that cannot be written, or nothing to encode.
    """
    started = time.perf_counter()
    job = _Job(config)
    with job.begun():
        job.encode_parts()
        job.processes.wait()
        return job.finish(started) if job.processes.is_main else {}


def checked_dim(dim: int | None, encoder: Encoder) -> int:
    """The number of dimensions to keep: `dim`, or all.

    Raises:
        UserError: more than the encoder's vectors have, or none.
    """
    width: int = encoder.config.dim
    dim = width if dim is None else dim
    if not 0 < dim <= width:
        raise UserError(f"--dim {dim}: the encoder's vectors have {width} dimensions; ask for at most that")
    return dim


class _Job:
    """One export, as one of its processes sees it."""

    def __init__(self, config: ExportConfig) -> None:
        if config.modality not in MODALITIES:
            raise UserError(f"--modality {config.modality}: expected one of {', '.join(MODALITIES)}")
        refuse_other_content(Path(config.out))
        refuse_inside_inputs(config.out, [("--items", config.items)])
        self.config = config
        self.items = open_table(config.items, ITEMS)
        self.processes = Processes(pick_device(config.device))
        self.cache = cache_folder(config.cache)
        self.encoder, self.ready = load_encoder(config.encoder, self.items)
        self.dim = checked_dim(config.dim, self.encoder)
        self.store = PartStore(Path(config.out), parts_of(self.items.count_rows(), PART_ROWS), self.dim)
        self.resumed = 0
        self.fingerprint = ""
        self.older: OlderSet | None = None

    @contextmanager
    def begun(self) -> Iterator[None]:
        """All processes have the same encoder, and parts of an earlier run are kept or deleted."""
        own_encoder = self.store.folder / "encoder"
        if not self.processes.is_main:
            self.processes.wait()
            if not self.ready:
                self.encoder, _ = load_encoder(str(own_encoder))
            self._settle()
            yield
            return
        next(self.items.batches(["item_id"]))  # looks for duplicates before anything is computed
        if not self.ready:
            self._calibrate()
        self._settle()
        with self.store.open(self._identity()):
            if not self.ready:
                self.encoder.save_pretrained(own_encoder)
            self.resumed = sum(len(self.store.parts[number]) for number in self.store.finished())
            self.processes.wait()
            yield

    def encode_parts(self) -> None:
        """Make parts until none is left."""
        device, view = self.processes.device, view_of(self.config.modality)
        encoder = self.encoder.to(device).eval()
        preparer = encoder.preparer(self.cache, device)
        look = Look(encoder, device, self.cache, write=self.processes.is_main)
        reader = PartReader(self.items, self.store.claims())
        # Hidden before anything is made of it: no picture is decoded for the words, no words are read for it.
        visible = ([shown(product, view) for product in products] for products in reader.batches())
        products = progress(read_ahead(reader.by_part(look(self.items, visible))), "export")
        for part, batches in groupby(products, key=itemgetter(0)):
            builder, cost = PartBuilder(len(part), self.dim, self.older), Cost()
            preparer.broken = BrokenImages()
            waiting = builder.to_encode(batch for _, batch in batches)
            for shard in encode_stream(encoder, preparer, waiting, device=device, view=view, cost=cost):
                builder.add(shard)
            self.store.write(part.start // PART_ROWS, builder.finished(preparer.broken, cost))

    def finish(self, started: float) -> dict[str, Any]:
        """Join the parts, in the main process; returns counts and costs."""
        totals = Totals(self.store)
        counts = totals.counts(self.older)
        if not counts["rows"]:
            self.store.discard()
            reason = f"no product shows anything as {self.config.modality}"
            raise UserError(f"{self.config.items}: {reason}; nothing was written")
        broken = {"broken_images": totals.unusable.to_dict()}
        with joined(self.store, self.dim, self._metadata() | {"empty": counts["empty"]} | broken) as writer:
            effort = self._effort(totals.cost, time.perf_counter() - started)
            come_from = {key: counts[key] for key in ("encoded", "copied", "dropped")}
            writer.metadata["export"] = come_from | effort
        return counts | {"dimension": self.dim} | broken | effort

    def _calibrate(self) -> None:
        """Fit an untrained encoder to the catalogue."""
        device = self.processes.device
        batches = Look(self.encoder, device, self.cache)(self.items, iter_items(self.items))
        preparer = self.encoder.preparer(self.cache, device)
        self.encoder.calibrate(preparer.table(progress(batches, "catalogue features")))

    def _settle(self) -> None:
        """The encoder is what it will be: look at the older set, which must be of the same one."""
        self.fingerprint = self.encoder.fingerprint()
        path = self.config.update
        if path is None:
            return
        if not self.ready:
            raise UserError(
                f"--update {path}: {self.config.encoder} is untrained, so every catalogue makes another "
                "encoder of it; export without --update, or train an encoder first"
            )
        self.older = OlderSet(
            path, encoder_fingerprint=self.fingerprint, modality=self.config.modality, dim=self.dim
        )

    def _identity(self) -> str:
        """A digest of all that decides what a part holds."""
        device = self.processes.device
        decisive = {
            "modality": self.config.modality,
            "dim": self.dim,
            "part_rows": PART_ROWS,
            "batch_rows": BATCH_ROWS,
            "arithmetic": f"{device.type} {'bf16' if has_fast_bf16(device) else 'fp32'}",
        }
        inputs = {"items": self.items.fingerprint(), "encoder": self.fingerprint}
        older = {"update": self.older.fingerprint} if self.older is not None else {}
        return identity_of("export", decisive, inputs | older)

    def _metadata(self) -> dict[str, Any]:
        return {
            "encoder_fingerprint": self.fingerprint,
            "catalogue_fingerprint": self.items.fingerprint(),
            "modality": self.config.modality,
            "matryoshka_sizes": [self.dim, *(size for size in self.encoder.config.dims if size < self.dim)],
        }

    def _effort(self, cost: Cost, seconds: float) -> dict[str, float]:
        """What this run took; shares are those of all parts, of killed runs, too."""
        return {
            "seconds": seconds,
            "items_per_second": (self.items.count_rows() - self.resumed) / seconds,
            "padding_share": cost.padding_share,
            "decode_wait_share": cost.decode_wait_share,
            "ranks": self.processes.count,
            "resumed": self.resumed,
        }
