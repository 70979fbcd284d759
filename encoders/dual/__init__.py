"""Two towers of CLIP kind as a product encoder, the baseline; see `encoders.dual.encoder`."""

from __future__ import annotations

from encoders.dual.checkpoint import DUAL_TYPES
from encoders.dual.encoder import DualEncoder
from encoders.dual.options import DualConfig, DualOptions, DualRuntime

__all__ = ["DUAL_TYPES", "DualConfig", "DualEncoder", "DualOptions", "DualRuntime"]
