"""Candidates out of a catalogue of item vectors: exactly, or through faiss with its recall measured."""

from __future__ import annotations

from ctr.retrieval.index.build import build_index
from ctr.retrieval.index.index_file import KINDS
from ctr.retrieval.index.item_index import ItemIndex
from ctr.retrieval.index.opening import open_index

__all__ = ["KINDS", "ItemIndex", "build_index", "open_index"]
