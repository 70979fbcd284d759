"""moonrec's side of the retrieval comparison; a child of `retrieval_speed.py`."""

from __future__ import annotations

from child import options, report

from ctr.retrieval.config import RetrievalConfig
from ctr.retrieval.train import train_retrieval


def main() -> None:
    metrics = train_retrieval(RetrievalConfig(**options()))
    report({name: metrics[name] for name in ("train", "test", "popularity")})


if __name__ == "__main__":
    main()
