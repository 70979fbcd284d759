"""Co-augmentation (MOON2.0, https://arxiv.org/abs/2511.12449): richer titles and more pictures per item."""

from __future__ import annotations
