"""The simulated marketplace keeps its promises: clean tables, an honest split, taste that can be found."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import roc_auc_score

from moonrec.errors import UserError
from moonrec.images import decode_image
from moonrec.simulation import simulate
from moonrec.simulation.catalogue import TEST_START, WORD_FACTS, draw_catalogue
from moonrec.simulation.photos import look_of, take_photo
from moonrec.simulation.scenes import Camera, Scene
from moonrec.simulation.seeds import stream
from moonrec.tables import EVENTS, IMPRESSIONS, ITEMS, SEARCHES, open_table

SPLITS = ("train", "test")
SIZE = 48


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("simulated") / "market"
    simulate(out, items=300, users=400, seed=3, image_size=SIZE)
    return out


@pytest.fixture(scope="module")
def items(market: Path) -> pd.DataFrame:
    return pd.read_parquet(market / "items.parquet")


def times(frame: pd.DataFrame) -> pd.Series:
    """Microseconds since 1970."""
    return frame["timestamp"].astype("datetime64[us, UTC]").astype("int64")


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def test_same_seed_gives_the_same_bytes_and_another_seed_does_not(tmp_path: Path) -> None:
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        simulate(tmp_path / name, items=40, users=30, seed=seed, image_size=32)
    a, b, c = (digests(tmp_path / name) for name in "abc")
    assert a == b
    assert all(a[name] != c[name] for name in a)


def test_items_do_not_depend_on_how_many_follow() -> None:
    few, many = draw_catalogue(60, seed=4), draw_catalogue(500, seed=4)
    for name, column in vars(few).items():
        np.testing.assert_array_equal(column, vars(many)[name][:60], err_msg=name)


def test_all_tables_pass_the_checks_of_the_readers(market: Path) -> None:
    specs = {"items": ITEMS, "events": EVENTS, "events_train": EVENTS}
    specs |= {f"impressions_{s}": IMPRESSIONS for s in SPLITS} | {f"searches_{s}": SEARCHES for s in SPLITS}
    rows = json.loads((market / "simulation.json").read_text())["rows"]
    assert set(rows) == set(specs)
    for name, spec in specs.items():
        table = open_table(market / f"{name}.parquet", spec)
        checked = sum(batch.num_rows for batch in table.batches(table.column_names))
        assert checked == table.count_rows() == rows[name], name


def test_logs_name_only_items_of_the_catalogue(market: Path, items: pd.DataFrame) -> None:
    assert items["item_id"].is_unique
    assert items["item_id"].str.fullmatch(r"i\d{6}").all()
    known = set(items["item_id"])
    for path in sorted(market.glob("*.parquet")):
        frame = pd.read_parquet(path)
        for column in {"item_id", "negative_item_id"} & set(frame.columns):
            assert set(frame[column].dropna()) <= known, path.name


def test_logs_are_in_order_of_time_and_no_user_does_two_things_at_once(market: Path) -> None:
    for path in [*market.glob("impressions*"), *market.glob("searches*"), *market.glob("events*")]:
        assert times(pd.read_parquet(path)).is_monotonic_increasing, path.name
    events = pd.read_parquet(market / "events.parquet").assign(time=lambda f: times(f))
    assert (events.groupby("user_id")["time"].diff().dropna() > 0).all()


def test_clicks_follow_their_impression_before_the_next_and_others_have_none(market: Path) -> None:
    shown = pd.concat(pd.read_parquet(market / f"impressions_{split}.parquet") for split in SPLITS)
    shown = shown.assign(time=times(shown)).sort_values(["user_id", "time"])
    shown["next"] = shown.groupby("user_id")["time"].shift(-1, fill_value=2**62)
    events = pd.read_parquet(market / "events.parquet").assign(time=lambda f: times(f))
    both = shown.merge(events, on=["user_id", "item_id"], suffixes=("", "_event"))
    soon = (both["time_event"] > both["time"]) & (both["time_event"] - both["time"] < 60_000_000)
    clicked = set(zip(both["user_id"][soon], both["time"][soon], strict=True))
    has_event = [key in clicked for key in zip(shown["user_id"], shown["time"], strict=True)]
    np.testing.assert_array_equal(has_event, shown["label"] == 1)
    assert (both["time_event"][soon] < both["next"][soon]).all()
    assert not (both["time_event"] == both["time"]).any()


def test_every_impression_has_an_earlier_event_of_its_user(market: Path) -> None:
    first = pd.read_parquet(market / "events.parquet").assign(time=lambda f: times(f))
    first_event = first.groupby("user_id")["time"].min()
    for split in SPLITS:
        shown = pd.read_parquet(market / f"impressions_{split}.parquet")
        assert (shown["user_id"].map(first_event) < times(shown)).all()


@pytest.mark.parametrize("table", ["impressions", "searches"])
def test_train_and_test_are_split_by_time(market: Path, table: str) -> None:
    train, test = (times(pd.read_parquet(market / f"{table}_{split}.parquet")) for split in SPLITS)
    assert train.max() < TEST_START <= test.min()
    assert len(test) > 0.08 * len(train)


def test_training_events_are_exactly_those_before_the_test_period(market: Path) -> None:
    events = pd.read_parquet(market / "events.parquet")
    train = pd.read_parquet(market / "events_train.parquet")
    expected = events[times(events) < TEST_START].reset_index(drop=True)
    pd.testing.assert_frame_equal(train, expected)
    assert len(expected) < len(events)


def test_nothing_happens_to_an_item_before_its_launch_and_late_items_are_new(market: Path) -> None:
    truth = pd.read_parquet(market / "truth_items.parquet").set_index("item_id")
    launch = truth["launch"].astype("datetime64[us, UTC]").astype("int64")
    names = ("events", "impressions_train", "impressions_test", "searches_train", "searches_test")
    for frame in (pd.read_parquet(market / f"{name}.parquet") for name in names):
        assert (frame["item_id"].map(launch) <= times(frame)).all()
    seen = set(pd.read_parquet(market / "impressions_train.parquet")["item_id"])
    tested = set(pd.read_parquet(market / "impressions_test.parquet")["item_id"])
    unseen = tested - seen
    assert len(unseen) > 0.05 * len(truth)
    assert truth.loc[sorted(unseen), "late"].mean() > 0.9


def test_both_tastes_quality_and_the_oracle_carry_signal(market: Path) -> None:
    shown = pd.read_parquet(market / "impressions_test.parquet")
    truth = pd.read_parquet(market / "truth_impressions_test.parquet")
    kinds = pd.read_parquet(market / "truth_users.parquet").set_index("user_id")["kind"]
    pd.testing.assert_frame_equal(shown[["user_id", "item_id", "timestamp"]], truth.iloc[:, :3])
    label, kind = shown["label"], shown["user_id"].map(kinds)
    assert 0.1 < label.mean() < 0.25
    assert abs(truth["probability"].mean() - label.mean()) < 0.03
    for column in ("visual_match", "word_match", "quality"):
        assert roc_auc_score(label, truth[column]) > 0.54, column
    oracle = roc_auc_score(label, truth["probability"])
    assert 0.73 < oracle < 0.84
    assert json.loads((market / "simulation.json").read_text())["ceiling_auc"] == pytest.approx(oracle)
    for who, column in (("visual", "visual_match"), ("verbal", "word_match")):
        assert roc_auc_score(label[kind == who], truth[column][kind == who]) > 0.6, who


def test_recent_history_tells_the_taste_of_the_moment(market: Path) -> None:
    """An event's look is nearer to the event just before it in the session than to the user's average one."""
    truth = pd.read_parquet(market / "truth_items.parquet").set_index("item_id")
    events = pd.read_parquet(market / "events.parquet").assign(time=lambda f: times(f))
    events = events[events["event"] == "click"].sort_values(["user_id", "time"])
    styles = np.stack(truth.loc[events["item_id"], "visual_style"].to_list())
    cosine = (styles[1:] * styles[:-1]).sum(axis=1)
    same_user = events["user_id"].to_numpy()[1:] == events["user_id"].to_numpy()[:-1]
    recent = np.diff(events["time"]) < 3_600_000_000
    assert cosine[same_user & recent].mean() > cosine[same_user & ~recent].mean() + 0.03
    assert cosine[same_user & ~recent].mean() > cosine[~same_user].mean()


def test_skus_of_a_product_share_words_and_shape(market: Path, items: pd.DataFrame) -> None:
    truth = pd.read_parquet(market / "truth_items.parquet").assign(product_id=items["product_id"])
    groups = truth.groupby("product_id")
    assert groups.size().max() in (2, 3)
    assert (groups[["shape", "pattern", *WORD_FACTS]].nunique() == 1).all(axis=None)
    assert (groups["hue"].nunique() > 1).any()


def test_some_items_lack_pictures_or_words_but_all_have_a_title(market: Path, items: pd.DataFrame) -> None:
    assert items["title"].str.len().min() >= 3
    for column, least, most in (
        ("image", 0.0, 0.05),
        ("description", 0.15, 0.45),
        ("attributes", 0.005, 0.1),
        ("images", 0.3, 0.8),
    ):
        missing = items[column].isna().mean()
        assert least <= missing <= most, column
    boxes = pd.read_parquet(market / "truth_items.parquet")["box"]
    np.testing.assert_array_equal(boxes.isna(), items["image"].isna())


def test_every_photo_is_a_jpeg_of_the_asked_size_and_no_query_is_a_catalogue_photo(
    market: Path, items: pd.DataFrame
) -> None:
    photos = [cell["bytes"] for cell in items["image"].dropna()]
    photos += [cell["bytes"] for cells in items["images"].dropna() for cell in cells]
    queries = [
        cell["bytes"]
        for split in SPLITS
        for cell in pd.read_parquet(market / f"searches_{split}.parquet")["query_image"].dropna()
    ]
    assert len(set(photos)) == len(photos)
    assert not set(photos) & set(queries)
    for data in photos[::7] + queries[::7]:
        image = decode_image(data)
        assert image.size == (SIZE, SIZE)
        assert np.asarray(image).std() > 4


def test_searches_ask_in_three_ways_and_reject_another_product_of_the_same_kind(
    market: Path, items: pd.DataFrame
) -> None:
    product = items.set_index("item_id")["product_id"]
    shape = pd.read_parquet(market / "truth_items.parquet").set_index("item_id")["shape"]
    for split in SPLITS:
        searches = pd.read_parquet(market / f"searches_{split}.parquet")
        image, text = searches["query_image"].notna(), searches["query_text"].notna()
        assert (image | text).all()
        assert min((image & text).mean(), (image & ~text).mean(), (text & ~image).mean()) > 0.05
        shown = searches[searches["negative_item_id"].notna()]
        assert 0.5 < len(shown) / len(searches) < 0.9
        assert (shown["item_id"].map(product) != shown["negative_item_id"].map(product)).all()
        assert (shown["item_id"].map(shape) == shown["negative_item_id"].map(shape)).all()


@pytest.mark.parametrize("seed", range(6))
def test_the_box_holds_the_product_and_touches_it(seed: int) -> None:
    """Two photos of the same scene, the product red or blue, differ inside the box and right up to it."""
    catalogue = draw_catalogue(60, seed)
    size = 96
    camera = Camera(rotation=10.0 * seed - 25, shear=0.1, squeeze=0.9, size=0.6, x=0.45, y=0.55)
    scene = Scene(studio=False, clutter=4, light=0.3, gains=(1.0, 1.0, 1.0), quality=95)
    look = look_of(catalogue, seed)
    pictures = []
    for tint in ((250, 10, 10), (10, 10, 250)):
        tinted = type(look)(look.shape, look.pattern, tint, tint, tint, look.frequency, look.width)
        photo = take_photo(tinted, camera, scene, stream(seed, "test"), size)
        pictures.append(np.asarray(decode_image(photo.jpeg)).astype(int))
    rows, columns = np.nonzero(np.abs(pictures[0] - pictures[1]).max(axis=2) > 100)
    found = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) / size
    np.testing.assert_allclose(photo.box, found, atol=0.035)


def test_refuses_a_folder_of_somebody_else_and_replaces_an_older_simulation(tmp_path: Path) -> None:
    thesis = tmp_path / "thesis"
    thesis.mkdir()
    (thesis / "chapter.txt").write_text("years of work")
    (thesis / "simulation.json").write_text('{"mine": 1}')
    with pytest.raises(UserError, match="holds files"):
        simulate(thesis, items=30, users=20, image_size=32)
    assert (thesis / "chapter.txt").read_text() == "years of work"
    with pytest.raises(UserError, match="is a file"):
        simulate(thesis / "chapter.txt", items=30, users=20, image_size=32)
    empty = tmp_path / "empty"
    empty.mkdir()
    for items in (30, 31):
        simulate(empty, items=items, users=20, image_size=32)
        assert open_table(empty / "items.parquet", ITEMS).count_rows() == items
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "thesis"]


@pytest.mark.parametrize(
    "wrong", [{"items": 0}, {"users": 3}, {"seed": -1}, {"image_size": 4}, {"items": 10**7}]
)
def test_numbers_out_of_range_are_the_users_mistake(tmp_path: Path, wrong: dict[str, int]) -> None:
    name, value = next(iter(wrong.items()))
    with pytest.raises(UserError, match=rf"{name}: {value} is out of range; expected"):
        simulate(tmp_path / "market", **wrong)
    assert not (tmp_path / "market").exists()


@pytest.mark.parametrize("seed", range(4))
def test_the_smallest_market_is_whole_for_any_seed(tmp_path: Path, seed: int) -> None:
    summary = simulate(tmp_path / "market", items=30, users=20, seed=seed, image_size=32)
    rows = summary["rows"]
    assert isinstance(rows, dict)
    assert all(count > 0 for count in rows.values())
    schema = pq.read_schema(tmp_path / "market" / "impressions_train.parquet")
    assert schema.field("timestamp").type == pa.timestamp("us", tz="UTC")
