"""What tests of relevance share: an encoder, its embedding set of the shop, and tables that were changed."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from encoder_helpers import Shop, busy_encoder

from encoders.export import ExportConfig, export
from moonrec.embedding_set import EmbeddingSet

MODEL = Path("model") / "relevance.json"


def saved_encoder(out: Path) -> Path:
    """A folder with a small encoder of random weights."""
    busy_encoder().save_pretrained(out)
    return out


def exported(shop: Shop, encoder: Path, out: Path) -> Path:
    """The embedding set of the shop's catalogue."""
    export(ExportConfig(encoder=str(encoder), items=shop.items, out=str(out), cache=shop.cache, device="cpu"))
    return out


def with_nan(embeddings: Path, out: Path) -> Path:
    """A copy of an embedding set in one of whose vectors a number is NaN."""
    shutil.copytree(embeddings, out)
    content = bytearray((out / "vectors.arrow").read_bytes())
    place = content.index(EmbeddingSet.open(embeddings).matrix()[7].tobytes())
    content[place : place + 2] = np.float16(np.nan).tobytes()
    (out / "vectors.arrow").write_bytes(content)
    return out


def changed(path: str | Path, out: Path, **columns: Any) -> str:
    """A copy of a table with other columns: Arrow's own, or lists of texts; None drops one."""
    table = pq.read_table(path)
    for name, values in columns.items():
        if name in table.column_names:
            table = table.drop_columns([name])
        if values is not None:
            column = values if isinstance(values, pa.Array) else pa.array(values, pa.string())
            table = table.append_column(name, column)
    pq.write_table(table, out)
    return str(out)
