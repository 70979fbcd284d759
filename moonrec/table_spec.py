"""The tables that moonrec reads: their columns, the types that each accepts, and what they become."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import pyarrow as pa
import pyarrow.types as pt

IMAGE_TYPE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
IMAGES_TYPE = pa.list_(IMAGE_TYPE)
ATTRIBUTES_TYPE = pa.map_(pa.string(), pa.string())


class Kind(StrEnum):
    """What the values of a column mean, and so what is checked and how they are normalised."""

    ID = "id"
    TEXT = "text"
    TEXTS = "texts"
    TIMESTAMP = "timestamp"
    LABEL = "label"
    IMAGE = "image"
    IMAGES = "images"
    ATTRIBUTES = "attributes"
    EXTRA = "extra"


NORMAL_TYPES: dict[Kind, pa.DataType] = {
    Kind.ID: pa.string(),
    Kind.TEXT: pa.string(),
    Kind.TEXTS: pa.list_(pa.string()),
    Kind.TIMESTAMP: pa.int64(),
    Kind.LABEL: pa.int8(),
    Kind.IMAGE: IMAGE_TYPE,
    Kind.IMAGES: IMAGES_TYPE,
    Kind.ATTRIBUTES: ATTRIBUTES_TYPE,
}


@dataclass(frozen=True)
class Column:
    """One column of a table. Where `nullable` is false, a null is the user's mistake."""

    name: str
    kind: Kind
    required: bool = False
    nullable: bool = True


@dataclass(frozen=True)
class TableSpec:
    """A table's name and columns; `unique` names the column that may not repeat a value.

    Of the columns in `one_of`, at least one has to be there.
    """

    name: str
    columns: tuple[Column, ...]
    unique: str | None = None
    one_of: tuple[str, ...] = ()

    def column(self, name: str) -> Column:
        """The column called `name`; one that the spec does not know is an extra column."""
        return next((column for column in self.columns if column.name == name), Column(name, Kind.EXTRA))

    @property
    def has_clock(self) -> bool:
        """Whether a column `timestamp` of this table tells when its rows happened."""
        return self.column("timestamp").kind is Kind.TIMESTAMP


def _must(name: str, kind: Kind) -> Column:
    return Column(name, kind, required=True, nullable=False)


ITEMS = TableSpec(
    "items",
    (
        _must("item_id", Kind.ID),
        Column("title", Kind.TEXT, required=True),
        Column("description", Kind.TEXT),
        Column("image", Kind.IMAGE),
        Column("images", Kind.IMAGES),
        Column("category", Kind.TEXT),
        Column("attributes", Kind.ATTRIBUTES),
        Column("product_id", Kind.ID),
        # Made by `moonrec augment`; only training looks at them.
        Column("title_enriched", Kind.TEXT),
        Column("title_enriched_source", Kind.TEXT),
        Column("images_augmented", Kind.IMAGES),
        Column("images_augmented_source", Kind.TEXTS),
    ),
    unique="item_id",
)
EVENTS = TableSpec(
    "events",
    (
        _must("user_id", Kind.ID),
        _must("item_id", Kind.ID),
        _must("timestamp", Kind.TIMESTAMP),
        Column("event", Kind.TEXT),
        Column("query_text", Kind.TEXT),
    ),
)
IMPRESSIONS = TableSpec(
    "impressions",
    (
        _must("user_id", Kind.ID),
        _must("item_id", Kind.ID),
        _must("timestamp", Kind.TIMESTAMP),
        _must("label", Kind.LABEL),
        Column("query_text", Kind.TEXT),
        Column("query_image", Kind.IMAGE),
    ),
)
IMPRESSIONS_TO_SCORE = TableSpec(
    "impressions", tuple(column for column in IMPRESSIONS.columns if column.kind is not Kind.LABEL)
)
USERS = TableSpec("users", (_must("user_id", Kind.ID),), unique="user_id")
SEARCHES = TableSpec(
    "searches",
    (
        _must("item_id", Kind.ID),
        Column("query_text", Kind.TEXT),
        Column("query_image", Kind.IMAGE),
        Column("negative_item_id", Kind.ID),
        Column("event", Kind.TEXT),
        Column("timestamp", Kind.TIMESTAMP),
        Column("user_id", Kind.ID),
        Column("query_item_id", Kind.ID),
    ),
    one_of=("query_text", "query_image"),
)


def type_advice(kind: Kind, dtype: pa.DataType) -> str | None:
    """None if a column of this kind may have this Arrow type, otherwise what was expected and what to do."""
    if pt.is_null(dtype) or kind is Kind.EXTRA:
        return None
    match kind:
        case Kind.ID:
            return None if is_text(dtype) else "expected string: ids are strings, never numbers; cast it"
        case Kind.TEXT:
            return None if is_text(dtype) else "expected string; cast it"
        case Kind.TEXTS:
            good = _is_list(dtype) and (pt.is_null(dtype.value_type) or is_text(dtype.value_type))
            return None if good else "expected list<string>"
        case Kind.TIMESTAMP:
            good = pt.is_timestamp(dtype) or pt.is_date(dtype)
            good = good or pt.is_integer(dtype) or pt.is_floating(dtype)
            return None if good else "expected timestamp, or numbers since 1970 UTC; parse it"
        case Kind.LABEL:
            good = pt.is_integer(dtype) or pt.is_boolean(dtype) or pt.is_floating(dtype)
            return None if good else "expected integers 0 and 1; cast it"
        case Kind.IMAGE:
            return None if _is_image(dtype) else "expected struct<bytes: binary, path: string>"
        case Kind.IMAGES:
            good = _is_list(dtype) and (pt.is_null(dtype.value_type) or _is_image(dtype.value_type))
            return None if good else "expected list<struct<bytes: binary, path: string>>"
        case Kind.ATTRIBUTES:
            return None if _is_attributes(dtype) else "expected map<string, string>"


def extra_type(dtype: pa.DataType) -> pa.DataType:
    """The normalised type of an extra column: any flavour of string is `string`, dictionaries are undone."""
    if pt.is_dictionary(dtype):
        dtype = dtype.value_type
    return pa.string() if is_text(dtype) else dtype


def is_text(dtype: pa.DataType) -> bool:
    """Whether the type is some flavour of string, possibly dictionary-encoded."""
    if pt.is_dictionary(dtype):
        dtype = dtype.value_type
    return bool(pt.is_string(dtype) or pt.is_large_string(dtype) or pt.is_string_view(dtype))


def _is_image(dtype: pa.DataType) -> bool:
    if not pt.is_struct(dtype):
        return False
    fields = {field.name: field.type for field in dtype}
    if not fields.keys() & {"bytes", "path"} or len(fields) != dtype.num_fields:
        return False
    data, path = fields.get("bytes", pa.null()), fields.get("path", pa.null())
    binary = pt.is_binary(data) or pt.is_large_binary(data) or pt.is_binary_view(data)
    return bool((pt.is_null(data) or binary) and (pt.is_null(path) or is_text(path)))


def _is_list(dtype: pa.DataType) -> bool:
    return bool(pt.is_list(dtype) or pt.is_large_list(dtype) or pt.is_fixed_size_list(dtype))


def _is_attributes(dtype: pa.DataType) -> bool:
    if pt.is_map(dtype):
        return is_text(dtype.key_type) and (is_text(dtype.item_type) or pt.is_null(dtype.item_type))
    if not (pt.is_list(dtype) or pt.is_large_list(dtype)) or not pt.is_struct(dtype.value_type):
        return False
    fields = {field.name: field.type for field in dtype.value_type}
    return fields.keys() == {"key", "value"} and all(is_text(t) or pt.is_null(t) for t in fields.values())
