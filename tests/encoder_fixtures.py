"""What the tests of `encoders` share over a session; test files name this plugin in `pytest_plugins`."""

from __future__ import annotations

from pathlib import Path

import pytest
from encoder_helpers import CPU, Shop

from encoders.features import FeatureTable, Featurizer
from encoders.posttrain import posttrain
from encoders.products import iter_items
from encoders.towers import Towers, pretrained_fingerprint
from moonrec.simulation import simulate
from moonrec.tables import ITEMS, open_table


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    folder = tmp_path_factory.mktemp("encoders") / "shop"
    simulate(folder, items=60, users=40, image_size=64)
    return Shop(
        items=str(folder / "items.parquet"),
        searches=str(folder / "searches_train.parquet"),
        test_searches=str(folder / "searches_test.parquet"),
        events=str(folder / "events_train.parquet"),
        holdout=str(folder / "impressions_test.parquet"),
        cache=str(tmp_path_factory.mktemp("cache")),
    )


@pytest.fixture(scope="session")
def towers() -> Towers:
    return Towers.pretrained()


@pytest.fixture(scope="session")
def features(shop: Shop, towers: Towers) -> FeatureTable:
    """Features of the shop's catalogue."""
    featurizer = Featurizer(
        towers=towers, fingerprint=pretrained_fingerprint(), cache=Path(shop.cache), device=CPU
    )
    return featurizer.table(iter_items(open_table(shop.items, ITEMS)))


@pytest.fixture(scope="session")
def trained(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of an uninterrupted post-training with the shop's default options."""
    out = tmp_path_factory.mktemp("trained") / "run"
    posttrain(shop.training(out))
    return out
