"""Ranking and retrieval: frozen vectors and behaviour in, probabilities and candidates out.

    from ctr import ContentInterest, EventStore, FrozenEmbeddings     # parts for any PyTorch model
    from ctr import TrainConfig, train_ctr, load_ctr                  # the whole run
    from ctr import RetrievalConfig, train_retrieval, load_retrieval  # likewise, of candidates

Names are imported when they are first used. Importing `ctr` itself finds out whether torch, fbgemm and
torchrec belong together, and says in one sentence how to mend it if they do not.
"""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any

from moonrec.doctor import check_torchrec

# TorchRec asks torch whether it is being traced, and torch warns that the question is ambiguous.
logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)
check_torchrec()

if TYPE_CHECKING:
    from ctr.content.concat import Concat
    from ctr.content.content_interest import ContentInterest
    from ctr.content.cube import Cube
    from ctr.content.frozen_embeddings import FrozenEmbeddings
    from ctr.content.make import Make
    from ctr.content.sata import SemanticAwareAttention
    from ctr.content.similarity import Similarity
    from ctr.content.simscore import SimScore
    from ctr.content.simtier import SimTier
    from ctr.data.history import EventStore, gather_ranges
    from ctr.layers.target_attention import TargetAttention
    from ctr.retrieval.index_items import IndexConfig, index_items
    from ctr.retrieval.retrieve import RetrieveConfig, retrieve
    from ctr.retrieval.saving import load_retrieval
    from ctr.retrieval.train import RetrievalConfig, train_retrieval
    from ctr.saving import load_ctr
    from ctr.search.nearest_behaviours import NearestBehaviours
    from ctr.train import TrainConfig, train_ctr

_HOME = {
    "Concat": "ctr.content.concat",
    "ContentInterest": "ctr.content.content_interest",
    "Cube": "ctr.content.cube",
    "EventStore": "ctr.data.history",
    "FrozenEmbeddings": "ctr.content.frozen_embeddings",
    "IndexConfig": "ctr.retrieval.index_items",
    "Make": "ctr.content.make",
    "NearestBehaviours": "ctr.search.nearest_behaviours",
    "RetrievalConfig": "ctr.retrieval.train",
    "RetrieveConfig": "ctr.retrieval.retrieve",
    "SemanticAwareAttention": "ctr.content.sata",
    "SimScore": "ctr.content.simscore",
    "SimTier": "ctr.content.simtier",
    "Similarity": "ctr.content.similarity",
    "TargetAttention": "ctr.layers.target_attention",
    "TrainConfig": "ctr.train",
    "gather_ranges": "ctr.data.history",
    "index_items": "ctr.retrieval.index_items",
    "load_ctr": "ctr.saving",
    "load_retrieval": "ctr.retrieval.saving",
    "retrieve": "ctr.retrieval.retrieve",
    "train_ctr": "ctr.train",
    "train_retrieval": "ctr.retrieval.train",
}

__all__ = [
    "Concat",
    "ContentInterest",
    "Cube",
    "EventStore",
    "FrozenEmbeddings",
    "IndexConfig",
    "Make",
    "NearestBehaviours",
    "RetrievalConfig",
    "RetrieveConfig",
    "SemanticAwareAttention",
    "SimScore",
    "SimTier",
    "Similarity",
    "TargetAttention",
    "TrainConfig",
    "gather_ranges",
    "index_items",
    "load_ctr",
    "load_retrieval",
    "retrieve",
    "train_ctr",
    "train_retrieval",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'ctr' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
