"""What happens at or after the moment of the test changes no bit of what is learnt."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from ctr_helpers import write_with_times
from retrieval_case import LAUNCH, NEW, Planted, config_of, planted_log
from safetensors.torch import load_file

from ctr.retrieval.train import train_retrieval

ALL, EVENTS = ("events", "items", "embeddings"), ("events",)
CONTEXT = {"categorical": ("device", "event"), "numeric": ("spent",)}


def other_items(log: Planted, late_E: np.ndarray) -> Planted:
    """Later on, everybody takes other items: new ones."""
    new = len(log.vectors) - NEW + (np.arange(len(late_E)) * 7) % NEW
    return log.with_rows(
        item_E=np.where(late_E, new, log.item_E), event_E=np.where(late_E, "late", log.event_E)
    )


def other_users(log: Planted, late_E: np.ndarray) -> Planted:
    """Later on, users take what others took, and nobody had been seen before."""
    users = 1_000 + (np.arange(len(late_E)) * 11) % 50
    return log.with_rows(user_E=np.where(late_E, users, log.user_E))


def written(log: Planted, folder: Path, order: str) -> dict[str, Any]:
    """Save a log, its rows in some order."""
    inputs = log.save(folder)
    keys = {"by time": log.minute_E, "by user": log.user_E, "latest first": -log.minute_E}
    table = log.table().take(np.argsort(keys[order], kind="stable"))
    write_with_times(table, folder / "events.parquet")
    return inputs


def learnt(inputs: dict[str, Any], out: Path, **options: Any) -> dict[str, Any]:
    """Everything that a training leaves behind but what is measured on the test."""
    # Whatever is asked of the test, the moment is the same: no repeats, all kinds.
    metrics = train_retrieval(config_of(inputs, out, epochs=2, mask_history=False, **options))
    model = out / "model"
    return {
        "weights": load_file(model / "weights.safetensors"),
        "files": {
            path.name: pq.read_table(path).to_pydict() for path in model.glob("*.parquet")
            if "sample" not in path.name
        },
        "validation": metrics["train"]["validation"],
        "rows": metrics["split"]["train_rows"],
        "test": metrics["test"],
        "popularity": metrics["popularity"],
    }  # fmt: skip


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one["weights"].keys() == other["weights"].keys()
    for name, value in one["weights"].items():
        assert torch.equal(value, other["weights"][name]), name
    for name in ("files", "validation", "rows"):
        assert one[name] == other[name], name
    # It would hold for tables that do not differ at all.
    assert one["test"] != other["test"]


@pytest.mark.parametrize(
    ("change", "order", "given"),
    [
        (other_items, "by time", ALL),
        (other_users, "by user", EVENTS),
        (other_items, "latest first", EVENTS),
    ],
)
def test_no_bit_of_the_weights_knows_the_test_period(
    change: Callable[[Planted, np.ndarray], Planted], order: str, given: tuple[str, ...], tmp_path: Path
) -> None:
    """New numbers and kinds of context among them."""
    log = planted_log(users=120)
    moment = np.sort(log.minute_E)[int(len(log.minute_E) * 0.85)]
    results = []
    for name, changed in (("as it is", log), ("changed", change(log, log.minute_E >= moment))):
        inputs = written(changed, tmp_path / name, order)
        results.append(learnt({key: inputs[key] for key in given}, tmp_path / f"run {name}", **CONTEXT))
    assert_same(*results)


def test_with_a_test_table_what_its_users_do_later_is_not_learnt(tmp_path: Path) -> None:
    """As if it were not in the events at all, though it stands there first."""
    log = planted_log(users=120)
    late_E = log.minute_E >= LAUNCH
    late = tmp_path / "late.parquet"
    write_with_times(log.table().filter(pa.array(late_E)), late)
    names = ("user_E", "item_E", "minute_E", "event_E")
    early = log.with_rows(**{name: getattr(log, name)[~late_E] for name in names})
    results = []
    for name, changed in (("as it is", log), ("early", early)):
        events = written(changed, tmp_path / name, "latest first")["events"]
        given = {"events": events, "test": str(late)}
        # So that only some users' last rows are held out.
        results.append(learnt(given, tmp_path / f"run {name}", validation_share=0.02))
    assert_same(*results)


def test_an_earlier_event_does_change_the_weights(tmp_path: Path) -> None:
    """The properties above would hold for a training that reads nothing."""
    log = planted_log(users=120)
    results = []
    for name, changed in (("as it is", log), ("changed", other_items(log, np.arange(len(log.user_E)) == 5))):
        inputs = written(changed, tmp_path / name, "by time")
        results.append(learnt(inputs, tmp_path / f"run {name}"))
    weights = [result["weights"]["towers.user_output.hidden.weight"] for result in results]
    assert not torch.equal(*weights)
