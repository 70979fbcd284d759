"""Product question answering from the catalogue: MOON Embedding's stage 1 (arXiv 2511.11305).

The MLLM learns the domain by answering questions about products: caption, attributes, title, subject and
style. Nobody writes the answers: they are made of the item's own fields, and the field that is asked about is
hidden from the prompt. The phrasings are ours (`templates.yaml`).

Shapes: N items, F forms, B rows asked for.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from encoders.product_qa.fields import COLUMNS, ProductFields
from encoders.product_qa.templates import SLOTS, Templates, templates
from encoders.products import Aspect, View
from moonrec.errors import UserError
from moonrec.progress import progress
from moonrec.tables import Table


@dataclass(frozen=True)
class Dialogue:
    """One question about the item at `row` and its answer; the prompt shows no more of it than `view`."""

    row: int
    task: str
    question: str
    answer: str
    view: View


class ProductQA:
    """Questions and answers about the items of a catalogue, drawn anew for every epoch.

    Made by `from_table`. The text columns stay in memory, as Arrow, not as Python strings.
    """

    def __init__(self, batches: Sequence[pa.RecordBatch], possible_NF: np.ndarray, made: Templates) -> None:
        self._batches = batches
        self._starts = np.cumsum([0, *(len(batch) for batch in batches)]).tolist()
        self._possible_NF = possible_NF
        self._templates = made

    @classmethod
    def from_table(cls, items: Table, has_image_N: np.ndarray | None = None) -> ProductQA:
        """See for every item which questions its fields can answer.

        Args:
            items: the catalogue.
            has_image_N: which items have a usable picture (default: all); nothing is asked about a picture
                that is not there.

        Raises:
            UserError: no item can answer any question, or a value of the table may not stand there.
        """
        made, count = templates(), items.count_rows()
        columns = [name for name in COLUMNS if name in items.column_names]
        batches = list(progress(items.batches(columns), "product questions"))
        fields = (ProductFields.of(row) for batch in batches for row in batch.to_pylist())
        has_image_N = np.ones(count, bool) if has_image_N is None else has_image_N
        filled_NS, shown_NA = _filled_and_shown(fields, count, made)
        shown_NA[:, Aspect.IMAGE] = has_image_N
        possible_NF = np.stack(
            [
                filled_NS[:, [SLOTS.index(slot) for slot in sorted(form.slots)]].all(1)
                & shown_NA[:, sorted(form.view)].any(1)
                for form in made.forms
            ],
            axis=1,
        )
        if not possible_NF.any():
            raise UserError(
                f"{items.path}: no item gives a question to train on; one needs a picture or words to ask "
                "about, and a title, category, attribute or description that is the answer"
            )
        return cls(batches, possible_NF, made)

    def __len__(self) -> int:
        return len(self._possible_NF)

    def rows(self) -> np.ndarray:
        """The items that at least one question can be asked about, ascending."""
        return np.flatnonzero(self._possible_NF.any(1))

    def items_per_task(self) -> dict[str, int]:
        """How many items each task can be made for."""
        forms = self._templates.forms
        return {
            task: int(self._possible_NF[:, [form.task == task for form in forms]].any(1).sum())
            for task in self._templates.tasks
        }

    def draw(self, rows: np.ndarray, seed: int, epoch: int) -> list[Dialogue]:
        """One question about each of `rows` (B,), decided by seed, epoch and row alone.

        The task is drawn first, evenly among those that the item allows, then its phrasing.

        Raises:
            ValueError: an item about which nothing can be asked (see `rows`).
        """
        return [self._draw(int(row), np.random.default_rng((seed, 7, epoch, int(row)))) for row in rows]

    def _draw(self, row: int, rng: np.random.Generator) -> Dialogue:
        forms = [self._templates.forms[i] for i in np.flatnonzero(self._possible_NF[row])]
        if not forms:
            raise ValueError(f"nothing can be asked about item {row}")
        slots = self._fields(row).slots(self._templates, rng)
        tasks = list(dict.fromkeys(form.task for form in forms))
        task = tasks[int(rng.integers(len(tasks)))]
        fitting = [form for form in forms if form.task == task]
        form = fitting[int(rng.integers(len(fitting)))]
        question = form.questions[int(rng.integers(len(form.questions)))]
        return Dialogue(row, task, question.format_map(slots), form.answer.format_map(slots), form.view)

    def _fields(self, row: int) -> ProductFields:
        part = bisect_right(self._starts, row) - 1
        return ProductFields.of(self._batches[part].slice(row - self._starts[part], 1).to_pylist()[0])


def _filled_and_shown(
    fields: Iterable[ProductFields], count: int, made: Templates
) -> tuple[np.ndarray, np.ndarray]:
    """Which slots (N, S) each item can fill, and which aspects (N, A) it can show in words."""
    filled_NS, shown_NA = np.zeros((count, len(SLOTS)), bool), np.zeros((count, len(Aspect)), bool)
    position = {slot: number for number, slot in enumerate(SLOTS)}
    rng = np.random.default_rng(0)
    for row, item in enumerate(fields):
        filled_NS[row, [position[slot] for slot in item.slots(made, rng)]] = True
        shown_NA[row, sorted(item.aspects())] = True
    return filled_NS, shown_NA
