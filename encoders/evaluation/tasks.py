"""The tasks of `moonrec evaluate`, and which of them some data allow.

The retrieval tasks are those of MOON2.0's table (https://arxiv.org/abs/2511.12449): what the query shows, and
what the products show that it is compared with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from encoders.products import EVERYTHING, IMAGE_ONLY, TEXT_ONLY, View
from moonrec.errors import UserError
from moonrec.tables import Table


@dataclass(frozen=True)
class RetrievalTask:
    """Queries that show `query_view`, against products that show `item_view`."""

    name: str
    query_view: View
    item_view: View

    @property
    def shows_picture(self) -> bool:
        """Whether the query's picture is shown."""
        return self.query_view >= IMAGE_ONLY

    @property
    def shows_words(self) -> bool:
        """Whether the query's words are shown."""
        return self.query_view >= TEXT_ONLY

    def columns_missing(self, searches: Table) -> list[str]:
        """The columns that queries of this task are made of and that the searches lack."""
        needed = {"query_image": self.shows_picture, "query_text": self.shows_words}
        return [name for name, shown in needed.items() if shown and name not in searches.column_names]

    @property
    def crosses(self) -> bool:
        """Whether the products show only the modality that the query does not."""
        return self.item_view != EVERYTHING


IMAGE_TO_ITEM = RetrievalTask("image_to_item", IMAGE_ONLY, EVERYTHING)
RETRIEVAL = (
    IMAGE_TO_ITEM,
    RetrievalTask("text_to_item", TEXT_ONLY, EVERYTHING),
    RetrievalTask("item_to_item", EVERYTHING, EVERYTHING),
    RetrievalTask("image_to_text", IMAGE_ONLY, TEXT_ONLY),
    RetrievalTask("text_to_image", TEXT_ONLY, IMAGE_ONLY),
)
CLASSIFICATION, ATTRIBUTES, AGREEMENT = "classification", "attributes", "agreement"
TASKS = (*(task.name for task in RETRIEVAL), CLASSIFICATION, ATTRIBUTES, AGREEMENT)
_OWN = "it takes the catalogue's own pictures and words"
_LABEL_COLUMNS = {CLASSIFICATION: "category", ATTRIBUTES: "attributes"}


@dataclass(frozen=True)
class Available:
    """What there is to evaluate with."""

    searches: Table
    items: Table | None
    has_encoder: bool


@dataclass
class Plan:
    """The tasks to do, in the order of `TASKS`.

    Attributes:
        names: the tasks that the columns of the tables allow.
        asked: whether the tasks were named by the user; what cannot be done of these is a mistake.
        left_out: why the others, and parts of tasks, are not done.
    """

    names: list[str]
    asked: bool
    left_out: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, wanted: Sequence[str] | None, available: Available, *, strict: bool = True) -> Plan:
        """A plan for the tasks `wanted`, or for all that can be done.

        Args:
            wanted: names of tasks; None: all.
            available: what there is.
            strict: whether a task that was asked for and cannot be done is a mistake.

        Raises:
            UserError: an unknown task, one that was asked for and cannot be done, or none that can be.
        """
        if wanted is not None:
            _check_names(wanted)
        plan = cls([], asked=strict and wanted is not None)
        for name in TASKS:
            if wanted is not None and name not in wanted:
                continue
            if reason := _missing(name, available):
                plan.leave_out(name, reason)
            else:
                plan.names.append(name)
        if not plan.names:
            raise UserError(next(iter(plan.left_out.values())))
        return plan

    @property
    def retrieval(self) -> list[RetrievalTask]:
        """The retrieval tasks to do."""
        return [task for task in RETRIEVAL if task.name in self.names]

    def leave_out(self, name: str, reason: str) -> None:
        """Note why a task, or `<task>.<part>`, is not done.

        Raises:
            UserError: the whole task was asked for.
        """
        if self.asked and name in TASKS:
            raise UserError(f"--tasks {name}: {reason}")
        self.left_out[name] = reason


def _check_names(wanted: Sequence[str]) -> None:
    unknown = [name for name in wanted if name not in TASKS]
    if unknown or not wanted:
        named = ", ".join(map(repr, unknown)) or "nothing"
        raise UserError(f"--tasks: {named} is no task; expected some of {', '.join(TASKS)}")


def _missing(name: str, available: Available) -> str | None:
    """Why a task cannot be done, as far as the columns of the tables tell."""
    searches, items = available.searches, available.items
    if not available.has_encoder:
        if name != IMAGE_TO_ITEM.name:
            return "an embedding set alone encodes nothing; name its --encoder"
        if "query_item_id" in searches.column_names:
            return None
        return (
            f"{searches.path}: an embedding set alone cannot encode a photo; name its --encoder, "
            "or give the column `query_item_id`"
        )
    if name in _LABEL_COLUMNS:
        return _no_column(items, "its labels are read from the catalogue", _LABEL_COLUMNS[name])
    if name == AGREEMENT:
        return _no_column(items, _OWN, "image", "images")
    task = next(task for task in RETRIEVAL if task.name == name)
    if task.crosses:
        # Without such queries in the searches, the catalogue's own pictures and words are the queries.
        return _no_column(items, _OWN, "image", "images")
    if not (absent := task.columns_missing(searches)):
        return None
    return f"{searches.path}: {name} needs the column `{absent[0]}`, which is not there"


def _no_column(items: Table | None, why: str, *columns: str) -> str | None:
    """Why the catalogue does not do, if it has none of `columns`."""
    if items is None:
        return f"{why}: name it with --items"
    if any(column in items.column_names for column in columns):
        return None
    return f"{items.path}: has no column {' or '.join(f'`{column}`' for column in columns)}"
