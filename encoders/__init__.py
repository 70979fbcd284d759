"""Products in, vectors out: towers, the compact encoder, post-training, export and evaluation."""

from __future__ import annotations
