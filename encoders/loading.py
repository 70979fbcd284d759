"""From what a person names on the command line to an encoder and its features."""

from __future__ import annotations

from pathlib import Path

import torch

from encoders.compact import CompactConfig, CompactEncoder
from encoders.features import Featurizer, default_cache
from encoders.towers import Towers

UNTRAINED = "compact"


def load_encoder(name_or_path: str) -> tuple[CompactEncoder, bool]:
    """An encoder by run folder, model folder or hub name, and whether it is ready.

    `compact` names the untrained encoder, which is not ready: it wants `calibrate` on a catalogue first.

    Raises:
        UserError: nothing loadable stands there.
    """
    if name_or_path == UNTRAINED:
        torch.manual_seed(0)
        return CompactEncoder(CompactConfig()).eval(), False
    return CompactEncoder.from_pretrained(name_or_path), True


def featurizer_for(encoder: CompactEncoder, cache: str | Path | None, device: torch.device) -> Featurizer:
    """The towers that belong to an encoder, behind the cache in `cache` (None: the default one, "": none)."""
    towers = encoder.towers if encoder.towers is not None else Towers.pretrained()
    folder = default_cache() if cache is None else (Path(cache) if str(cache) else None)
    return Featurizer(towers=towers, fingerprint=encoder.towers_fingerprint(), cache=folder, device=device)
