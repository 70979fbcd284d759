"""The hidden facts about items and users as tables: what methods should find, never an input to one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from moonrec.simulation.catalogue import WORD_FACTS, Catalogue, IntArray, item_id
from moonrec.simulation.tastes import USER_KINDS, Users, user_id
from moonrec.simulation.vocabulary import PATTERNS, SHAPES
from moonrec.simulation.words import FACT_NAMES


def _names(names: Sequence[str], codes: IntArray) -> pa.Array:
    return pa.array(names, pa.string()).take(pa.array(codes))


def _lists(rows: np.ndarray) -> pa.Array:
    """Turn rows of equal width into a list column."""
    return pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), rows.shape[1])


def truth_items(catalogue: Catalogue, boxes: Sequence[tuple[float, float, float, float] | None]) -> pa.Table:
    """Return one row per item; `box` is x0, y0, x1, y1 in 0..1 of the main photo, null without a photo."""
    facts = {
        fact: _names(FACT_NAMES[fact], catalogue.words_IF[:, column])
        for column, fact in enumerate(WORD_FACTS)
    }
    return pa.table(
        {
            "item_id": [item_id(item) for item in range(len(catalogue))],
            "shape": _names(SHAPES, catalogue.shape),
            "hue": catalogue.hue,
            "saturation": catalogue.saturation,
            "lightness": catalogue.lightness,
            "second_hue": catalogue.second_hue,
            "pattern": _names(tuple(PATTERNS), catalogue.pattern),
            "texture": catalogue.texture,
            "form": catalogue.form,
            "visual_style": _lists(catalogue.visual_style_IV()),
            **facts,
            "quality": catalogue.quality,
            "popularity": catalogue.popularity,
            "launch": pa.array(catalogue.launch).cast(pa.timestamp("us", tz="UTC")),
            "late": catalogue.late,
            "cluttered": catalogue.cluttered,
            "box": pa.array([None if box is None else list(box) for box in boxes], pa.list_(pa.float64())),
        }
    )


def truth_users(users: Users) -> pa.Table:
    """Return one row per user; every taste is an entry of the list columns."""
    tastes = {
        f"tastes_{fact}": pa.array(
            [
                [FACT_NAMES[fact][code] for code in codes]
                for codes in users.wordings_UKF[:, :, column].tolist()
            ]
        )
        for column, fact in enumerate(WORD_FACTS)
    }
    return pa.table(
        {
            "user_id": [user_id(user) for user in range(len(users))],
            "kind": _names(USER_KINDS, users.kind),
            "visual_weight": users.visual_weight,
            "word_weight": users.word_weight,
            "crowd_pull": users.crowd_pull,
            "leniency": users.leniency,
            "tastes_visual_style": pa.array(users.looks_UKV.tolist(), pa.list_(pa.list_(pa.float32()))),
            **tastes,
            "favourite_shapes": pa.array([[SHAPES[s] for s in row] for row in users.shapes_UK.tolist()]),
        }
    )
