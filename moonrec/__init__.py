"""moonrec: product pictures and words, frozen into embeddings, lifting ranking models."""

from __future__ import annotations

__version__ = "0.1.0"
