"""What the source columns call a model."""

from __future__ import annotations

from pathlib import Path


def model_name(name_or_path: str) -> str:
    """A folder's own name, or the name on the hub: never the path to it, which tells of somebody's disk."""
    path = Path(name_or_path)
    return path.resolve().name if path.is_dir() else name_or_path
