"""Versions whose worth is known: what users of a simulated marketplace care about, more or less blurred.

The versions are no encoders. The simulation knows what draws users to a product (its look, the facts in its
words, its kind), and a version is that truth as a vector, with so much noise. Less noise is a better
version, for clicks and for search alike. A decoy is such a version with a code of the product added, one
random vector that all SKUs of the product share: search by a SKU's own vector then finds the other SKUs at
once, and no user cares. An honest method has to say that the noise is worth something and the code is not.

Untrained encoders would not do: on 800 simulated products the judge's AUC with the vectors of `compact` was
.629, and .633 with those vectors buried in four times as much noise (two seeds): nothing was there to blur.

Shapes: N items, D width of the vectors, W of the truth, K values of a fact.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from moonrec.atomic import atomic_file
from moonrec.embedding_set import EmbeddingSetWriter

FloatArray = NDArray[np.float32]

WIDTH = 64
REFERENCE = "blur-2"
# How strongly users weigh each fact, about as the simulation's users do.
_FACTS = {"material": 0.8, "brand": 0.7, "mood": 1.2, "occasion": 0.9}
_KIND = 0.5


@dataclass(frozen=True)
class Recipe:
    """How a version is made.

    Attributes:
        noise: length of the noise beside the truth's, which is 1.
        code: length of the product's code beside what that gives, which is 1.
    """

    noise: float
    code: float = 0.0


RECIPES: dict[str, Recipe] = {
    REFERENCE: Recipe(2.0),
    "blur-1.5": Recipe(1.5),
    "blur-1": Recipe(1.0),
    "blur-0.75": Recipe(0.75),
    "blur-0.5": Recipe(0.5),
    "blur-0": Recipe(0.0),
    "blur-2-coded": Recipe(2.0, 1.0),
}
STEPS = (
    ("blur-2", "blur-1"),
    ("blur-1", "blur-0"),
    ("blur-2", "blur-2-coded"),
)
"""A better version twice, and then a gain that users do not care about."""
NOTES = (
    "Simulated data, and versions that are no encoders: each is the simulation's own truth about looks, "
    "words and kinds of products, with noise of the length that its name tells. The version that ends in "
    "-coded has a random code per product besides, by which search finds the other SKUs of a product; no "
    "user cares for it.",
    "Searches ask with one SKU's vector for the other SKUs of the same product.",
)


def write_versions(data: Path, out: Path, seed: int) -> dict[str, Path]:
    """Write an embedding set per recipe; returns their folders by name.

    Args:
        data: a simulated marketplace.
        out: the folder to write them into.
        seed: of noise and codes.
    """
    items = pq.read_table(data / "items.parquet", columns=["item_id", "product_id"])
    truth_ND = taste(pq.read_table(data / "truth_items.parquet"), seed)
    _, product_N = np.unique(items["product_id"].to_numpy(zero_copy_only=False), return_inverse=True)
    code_ND = _unit(np.random.default_rng([seed, 1]).standard_normal((product_N.max() + 1, WIDTH)))[product_N]
    folders = {}
    for name, recipe in RECIPES.items():
        # Versions of one length of noise share it: what a decoy has besides is its code and nothing else.
        random = np.random.default_rng([seed, 2, round(100 * recipe.noise)])
        vectors_ND = _unit(truth_ND + recipe.noise * _unit(random.standard_normal(truth_ND.shape)))
        vectors_ND = _unit(vectors_ND + recipe.code * code_ND)
        folders[name] = out / name
        with EmbeddingSetWriter(folders[name], WIDTH, {"made_by": "moonrec exchange-rate --demo"}) as writer:
            writer.write(items["item_id"].combine_chunks(), vectors_ND)
    return folders


def taste(truth: pa.Table, seed: int) -> FloatArray:
    """What draws users to each item, as unit vectors (N, D): look, facts in words, kind."""
    parts = [np.array(truth["visual_style"].to_pylist(), np.float32)]
    words = [weight**0.5 * _one_hot(truth[fact]) for fact, weight in _FACTS.items()]
    parts += [_unit(np.concatenate(words, axis=1)), _KIND * _one_hot(truth["shape"])]
    truth_NW = np.concatenate(parts, axis=1)
    random = np.random.default_rng([seed, 0])
    directions_WD, _ = np.linalg.qr(random.standard_normal((truth_NW.shape[1], WIDTH)))
    return _unit(truth_NW @ directions_WD)


def write_searches(data: Path, path: Path) -> int:
    """Write searches that ask with a SKU for the others of its product; returns how many SKUs ask."""
    items = pq.read_table(data / "items.parquet", columns=["item_id", "product_id"])
    pairs = items.join(items, "product_id", join_type="inner", right_suffix="_asked").to_pandas()
    pairs = pairs[pairs["item_id"] != pairs["item_id_asked"]].sort_values(["item_id_asked", "item_id"])
    table = pa.table(
        {
            "query_text": pa.nulls(len(pairs), pa.string()),
            "query_item_id": pa.array(pairs["item_id_asked"], pa.string()),
            "item_id": pa.array(pairs["item_id"], pa.string()),
        }
    )
    with atomic_file(path) as temporary:
        pq.write_table(table, temporary)
    return int(pairs["item_id_asked"].nunique())


def _one_hot(column: pa.ChunkedArray) -> FloatArray:
    """A row per item, 1 at its value (N, K)."""
    _, code_N = np.unique(column.to_numpy(zero_copy_only=False), return_inverse=True)
    return np.eye(code_N.max() + 1, dtype=np.float32)[code_N]


def _unit(vectors: NDArray[np.floating]) -> FloatArray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
