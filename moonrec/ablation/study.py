"""Which rows a study has: data only, in the words of `moonrec posttrain`'s flags.

`moon2` is the table of MOON2.0 (https://arxiv.org/abs/2511.12449), `moon` the parts of MOON
(https://arxiv.org/abs/2508.11999) and of MOON Embedding's second round (https://arxiv.org/abs/2511.11305),
`mix` the trade-off between image and text queries that MOON2.0 opens with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

FULL = "full"


@dataclass(frozen=True)
class Row:
    """One line of a study's table.

    Attributes:
        name: of the row in `--rows` and in folders.
        label: for readers.
        options: flags of posttrain that make the row; they win over the study's recipe and `--set`.
        against: the row that it is compared with; None for none.
        item_columns: the row means something only where the items table has one of these.
        curve: the line of the trade-off plot that it is a point of.
    """

    name: str
    label: str
    options: Mapping[str, str] = field(default_factory=dict)
    against: str | None = FULL
    item_columns: tuple[str, ...] = ()
    curve: str | None = None


@dataclass(frozen=True)
class Study:
    """A table: the recipe that all its rows share, and the rows."""

    name: str
    title: str
    recipe: Mapping[str, str]
    rows: tuple[Row, ...]


# One constant each: what is measured against.
MOON2_RECIPE = {"rounds": "1,joint"}
MOON_RECIPE = {"rounds": "1,2"}

_AUGMENTED = ("title_enriched", "images_augmented")
_SHARES = ("1:0:0", "12:3:2", "1:1:1", "3:12:2", "0:1:0")
_FORMS = (("turns", "each batch one modality", "1"), ("joint", "joint", "joint"))


def _mix_rows() -> tuple[Row, ...]:
    """Every share of image:text:both in both forms; a joint row is compared with the same share in turns."""
    return tuple(
        Row(
            name=f"{form}-{shares.replace(':', '-')}",
            label=f"{shares}, {label}",
            options={"rounds": rounds, "modality_mix": shares},
            against=f"turns-{shares.replace(':', '-')}" if form == "joint" else None,
            curve=label,
        )
        for form, label, rounds in _FORMS
        for shares in _SHARES
    )


_MOON2 = Study(
    "moon2",
    "Parts of MOON2.0",
    MOON2_RECIPE,
    (
        Row(FULL, "all parts", against=None),
        Row("without-moe", "without MoE", {"experts": "0", "objective_weights": "even"}),
        # The paper does not say what takes its place. Ours: no image-text loss, and queries as they are,
        # whole where they have a picture and words.
        Row("without-alignment", "without dual alignment", {"intra_weight": "0", "modality_mix": "1:1:1000"}),
        Row(
            "without-augmentation",
            "without co-augmentation",
            {"augmented": "false"},
            item_columns=_AUGMENTED,
        ),
        Row("without-filter", "without filtering", {"filter": "false"}),
    ),
)

_MOON = Study(
    "moon",
    "Parts of MOON and of its second round",
    MOON_RECIPE,
    (
        Row(FULL, "all parts", against=None),
        Row("without-regions", "without core region", {"regions": "false"}),
        Row("without-guidance", "without guided experts", {"guided": "false"}),
        Row("without-experts", "without any experts", {"experts": "0"}),
        Row(
            "without-spatial-temporal",
            "without spatial-temporal negatives",
            {"spatial": "false", "queue": "0"},
        ),
        Row("without-hard", "without hard negatives", {"hard_negatives": "0"}),
        Row("without-circle", "without circle loss", {"loss": "infonce"}),
    ),
)

_MIX = Study("mix", "Shares of query modalities", {}, _mix_rows())

STUDIES: Mapping[str, Study] = {study.name: study for study in (_MOON2, _MOON, _MIX)}
