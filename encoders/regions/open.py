"""From a catalogue's path to its core regions: which detector, and where the boxes lie."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

import torch

from encoders.regions.find import Regions
from encoders.regions.grounding import GroundingDetector, GroundingModel
from encoders.regions.saliency import SaliencyDetector
from encoders.regions.store import RegionStore
from encoders.towers import ImageTower


def open_regions(table: str | Path, device: torch.device, cache: Path | None, write: bool = True) -> Regions:
    """The core regions of a table's pictures, found by the frozen image tower.

    Boxes that a multimodal language model found earlier, with the help of the titles (`ground_regions`), are
    taken first.

    Args:
        table: the catalogue or the searches, a Parquet file or a folder of them; the boxes lie beside it.
        device: where the tower runs.
        cache: folder for the boxes of a table whose own folder cannot be written; None keeps them in memory.
        write: whether this process keeps what it finds; of several that share the table, one does.

    Raises:
        UserError: the table of boxes there is not one.
    """
    tower = ImageTower()
    tower.load_pretrained()
    detector = SaliencyDetector(tower.requires_grad_(False), device)
    place = boxes_path(table, cache, tell=write)
    store = RegionStore(place, detector.fingerprint(), write)
    return Regions(detector, store, prefer=RegionStore(place, None, write=False))


def ground_regions(
    table: str | Path, model: GroundingModel, cache: Path | None, write: bool = True
) -> Regions:
    """The core regions of a table's pictures, found by asking a multimodal language model.

    See `open_regions` for the arguments and the error; `model` is frozen and on its device.
    """
    detector = GroundingDetector(model)
    return Regions(detector, RegionStore(boxes_path(table, cache, tell=write), detector.fingerprint(), write))


def boxes_path(table: str | Path, cache: Path | None, tell: bool = True) -> Path | None:
    """Where the boxes of a table lie: `_items.regions.parquet` beside `items.parquet`, or beside `items/`.

    The underscore keeps it out of the tables around it: no Parquet reader takes it for a part of a folder.
    Where that place cannot be written and there is no such file, it is a file in `cache`, or None without
    one; `tell` says so on stderr.
    """
    path = Path(os.path.abspath(table))
    stem = path.name if path.is_dir() else path.stem
    beside = path.with_name(f"_{stem}.regions.parquet")
    if beside.exists() or os.access(path.parent, os.W_OK):
        return beside
    instead = None
    if cache is not None:
        instead = cache / "regions" / f"{hashlib.sha256(os.fsencode(path)).hexdigest()[:32]}.parquet"
    if tell:
        where = "in memory only" if instead is None else f"in {instead}"
        print(f"{path.parent}: cannot be written; core regions are kept {where}", file=sys.stderr, flush=True)
    return instead
