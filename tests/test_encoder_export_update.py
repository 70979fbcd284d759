"""Export with an older set of the same encoder: what is unchanged is copied, the rest is encoded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from encoder_export_cases import exported, toys
from encoder_helpers import busy_encoder, picture, write_table

from encoders import export as export_module
from moonrec.embedding_set import EmbeddingSet
from moonrec.errors import UserError

ROWS = 60


@pytest.fixture(scope="module")
def encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    busy_encoder().save_pretrained(folder)
    return folder


def rows_of_catalogue() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = toys(ROWS)
    for number, row in enumerate(rows):
        row["image"] = picture(number) if number % 4 == 0 else None
    rows[3]["image"] = b"broken"
    rows[5]["title"] = None
    return rows


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_table(tmp_path_factory.mktemp("catalogue") / "items.parquet", rows_of_catalogue()))


@pytest.fixture(scope="module")
def older(encoder_folder: Path, catalogue: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("older") / "set"
    exported(out, encoder_folder, catalogue)
    return out


def vectors_by_id(embeddings: EmbeddingSet) -> dict[str, np.ndarray]:
    return dict(zip(embeddings.ids.to_pylist(), embeddings.matrix().astype(np.float64), strict=True))


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


def test_only_what_changed_is_encoded(
    encoder_folder: Path, older: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = rows_of_catalogue()
    rows[7]["title"] = "a hat of felt"
    rows[8]["image"] = picture(1000)
    rows[12]["image"] = None
    rows[5]["title"] = "no longer silent"
    del rows[20:23]
    rows = [*rows[30:], {"item_id": "new", "title": "brand new"}, *rows[:30]]
    rows.append({"item_id": "00", "title": rows_of_catalogue()[0]["title"], "image": picture(0)})
    items = str(write_table(tmp_path / "items.parquet", rows))
    monkeypatch.setattr(export_module, "PART_ROWS", 16)
    updated = exported(tmp_path / "updated", encoder_folder, items, update=str(older))
    full = exported(tmp_path / "full", encoder_folder, items)
    encoded = {"7", "8", "12", "5", "new", "00"}
    counts = updated.metadata["export"]
    assert {key: counts[key] for key in ("encoded", "copied", "dropped")} == {
        "encoded": len(encoded),
        "copied": len(rows) - len(encoded),
        "dropped": 3,
    }
    assert updated.ids.equals(full.ids)
    before, now, wanted = (vectors_by_id(found) for found in (EmbeddingSet.open(older), updated, full))
    for key, vector in now.items():
        if key in encoded:
            assert cosine(vector, wanted[key]) > 0.9999
        else:
            np.testing.assert_array_equal(vector, before[key])
    assert cosine(now["7"], before["7"]) < 0.999
    assert cosine(now["00"], before["0"]) > 0.9999
    broken = updated.metadata["broken_images"]
    assert (broken["count"], [example["id"] for example in broken["examples"]]) == (1, ["3"])


def test_an_unchanged_catalogue_gives_the_same_set_in_its_own_place(
    encoder_folder: Path, catalogue: str, tmp_path: Path
) -> None:
    first = exported(tmp_path / "set", encoder_folder, catalogue)
    digests = (tmp_path / "set" / "digests.arrow").read_bytes()
    again = exported(tmp_path / "set", encoder_folder, catalogue, update=str(tmp_path / "set"))
    assert again.fingerprint == first.fingerprint
    assert (tmp_path / "set" / "digests.arrow").read_bytes() == digests
    # The product without anything to show has no entry to copy; it is looked at again.
    assert again.metadata["export"]["copied"] == len(first) == ROWS - 1
    assert again.metadata["empty"] == 1
    assert again.metadata["broken_images"]["count"] == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"modality": "text"}, "was made with another --modality"),
        ({"dim": 8}, r"was made with another --dim \(32, now 8\)"),
        ({"encoder": "{other}"}, "was made with another encoder"),
        ({"encoder": "compact"}, "is untrained"),
        ({"update": "{nowhere}"}, "no such embedding set"),
    ],
)
def test_a_set_that_does_not_fit_is_refused(
    options: dict[str, Any], message: str, encoder_folder: Path, catalogue: str, older: Path, tmp_path: Path
) -> None:
    busy_encoder(seed=1).save_pretrained(tmp_path / "other")
    names = {"other": tmp_path / "other", "nowhere": tmp_path / "nowhere"}
    wish = {"encoder": str(encoder_folder), "update": str(older)} | {
        key: value.format(**names) if isinstance(value, str) else value for key, value in options.items()
    }
    with pytest.raises(UserError, match=message) as told:
        exported(tmp_path / "set", wish.pop("encoder"), catalogue, **wish)
    assert "\n" not in str(told.value)
    assert not (tmp_path / "set").exists()


def damage(folder: Path, kind: str) -> None:
    path = folder / "digests.arrow"
    if kind == "gone":
        path.unlink()
    else:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(bytes(content))


@pytest.mark.parametrize(
    ("kind", "message"), [("gone", "holds no digests.arrow"), ("changed", "is not the file that was written")]
)
def test_digests_that_are_gone_or_changed_are_refused_but_the_set_can_be_read(
    kind: str, message: str, encoder_folder: Path, catalogue: str, tmp_path: Path
) -> None:
    exported(tmp_path / "older", encoder_folder, catalogue)
    damage(tmp_path / "older", kind)
    assert len(EmbeddingSet.open(tmp_path / "older")) == ROWS - 1
    with pytest.raises(UserError, match=message):
        exported(tmp_path / "set", encoder_folder, catalogue, update=str(tmp_path / "older"))
    # Nothing keeps such a set from being replaced.
    exported(tmp_path / "older", encoder_folder, catalogue)
