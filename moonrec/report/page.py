"""A self-contained HTML page: numbers first, then plots, then what made them. No script, no outside file."""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import jinja2
from matplotlib.figure import Figure

from moonrec.atomic import atomic_file
from moonrec.report.tiles import Tile, image_address, shown
from moonrec.report.values import Cell, format_value, is_number

# Dots of a figure per inch, and how many of them the page shows as one: sharp on a phone, too.
_DPI, _DENSITY = 176, 1.6
# Wider tables and plots stand alone in their row; narrower ones stand beside each other where there is room.
_NARROW_COLUMNS, _NARROW_LETTERS = 5, 64
_NARROW_PLOT = 800
_Part = tuple[str, Mapping[str, object]]


class Report:
    """Collects parts in the order in which they are added; `save` writes the page.

    Args:
        title: of the page.
        subtitle: a line below it.
        maker: what the page's source names as its generator.
    """

    def __init__(self, title: str, subtitle: str = "", maker: str = "moonrec") -> None:
        self._title = title
        self._subtitle = subtitle
        self._maker = maker
        self._parts: list[_Part] = []
        # Where parts go: the page, or the innermost `details`.
        self._open = self._parts

    def headline(self, figures: Sequence[tuple[str, object, str]]) -> None:
        """Add key figures in large type: (label, value, note) each; notes may be empty, none adds nothing."""
        cells = [
            {"label": label, "value": format_value(value), "note": note} for label, value, note in figures
        ]
        if cells:
            self._add("headline", figures=cells)

    def heading(self, text: str) -> None:
        """Open a section; inside `details`, a part of it."""
        self._add("heading", text=text)

    def text(self, text: str) -> None:
        """Add a paragraph."""
        self._add("text", text=text)

    def warning(self, text: str) -> None:
        """Add a paragraph that a reader must not miss."""
        self._add("warning", text=text)

    def table(self, rows: Sequence[Mapping[str, object]], caption: str = "") -> None:
        """Add a table; the first row's keys are the columns, floats are shown with four decimals.

        A value may be a `Cell`, which adds a quiet note or marks the value.
        """
        columns = list(rows[0]) if rows else []
        cells = [[_cell(row.get(name)) for name in columns] for row in rows]
        numeric = [_numeric([row[place] for row in cells]) for place in range(len(columns))]
        letters = sum(max(len(str(cell["text"])) for cell in column) for column in zip(*cells, strict=True))
        self._add(
            "table",
            columns=[{"name": name, "number": right} for name, right in zip(columns, numeric, strict=True)],
            rows=[
                [cell | {"right": right} for cell, right in zip(row, numeric, strict=True)] for row in cells
            ],
            caption=caption,
            half=len(columns) <= _NARROW_COLUMNS and letters <= _NARROW_LETTERS,
        )

    def figure(self, figure: Figure, caption: str = "") -> None:
        """Add a matplotlib figure, drawn into the page."""
        buffer = io.BytesIO()
        with warnings.catch_warnings():
            # A letter that the font lacks is drawn as a box; nobody can act on a warning for each of them.
            warnings.filterwarnings("ignore", message="Glyph")
            figure.savefig(buffer, format="png", dpi=_DPI, bbox_inches="tight")
        self.picture(buffer.getvalue(), caption, density=_DENSITY)

    def picture(self, image: bytes, caption: str = "", density: float = 1.0) -> None:
        """Add a plot that is already drawn.

        Args:
            image: the bytes of a PNG file.
            caption: what it shows.
            density: how many of its dots stand for one of the page's.

        Raises:
            ValueError: `image` does not begin as a PNG file does.
        """
        address = image_address(image)
        if not address.startswith("data:image/png"):
            raise ValueError("a plot of a report is the bytes of a PNG file")
        width, height = (round(side / density) for side in struct.unpack(">II", image[16:24]))
        self._add(
            "figure", address=address, caption=caption,
            width=width, height=height, half=width <= _NARROW_PLOT,
        )  # fmt: skip

    def strip(self, query: Tile, results: Sequence[Tile], caption: str = "") -> None:
        """Add one query and its results, the first one first; hits are marked."""
        ranked = [shown(tile, rank) for rank, tile in enumerate(results, start=1)]
        self._add("strip", query=shown(query), tiles=ranked, caption=caption)

    def tiles(self, tiles: Sequence[Tile], caption: str = "") -> None:
        """Add small pictures in rows."""
        self._add("tiles", tiles=[shown(tile) for tile in tiles], caption=caption)

    @contextmanager
    def details(self, summary: str) -> Iterator[None]:
        """Fold what is added inside the block under `summary`, which a reader opens."""
        around, inside = self._open, list[_Part]()
        self._add("details", summary=summary, parts=inside)
        self._open = inside
        try:
            yield
        finally:
            self._open = around

    def save(self, path: str | Path) -> None:
        """Write the page to `path`, atomically."""
        environment = jinja2.Environment(
            loader=jinja2.PackageLoader("moonrec.report", "."),
            autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined,
        )  # fmt: skip
        page = environment.get_template("page.html").render(
            title=self._title, subtitle=self._subtitle, maker=self._maker, sections=_sections(self._parts)
        )
        with atomic_file(path) as temporary:
            # A lone surrogate, as a broken file name leaves it, cannot be encoded.
            temporary.write_bytes(page.encode("utf-8", errors="replace"))

    def _add(self, kind: str, **value: object) -> None:
        self._open.append((kind, value))


def _sections(parts: Sequence[_Part]) -> list[dict[str, object]]:
    """The page's parts under their headings; what stands before the first one has none."""
    sections: list[dict[str, object]] = []
    inside: list[_Part] = []
    sections.append({"heading": None, "parts": inside})
    for kind, value in parts:
        if kind == "heading":
            inside = []
            sections.append({"heading": value["text"], "parts": inside})
        else:
            inside.append((kind, value))
    return sections if sections[0]["parts"] else sections[1:]


def _cell(value: object) -> dict[str, object]:
    one = value if isinstance(value, Cell) else Cell(value)
    return {
        "text": format_value(one.value),
        "number": is_number(one.value),
        "none": one.value is None,
        "note": one.note,
        "marked": one.marked,
    }


def _numeric(column: Sequence[Mapping[str, object]]) -> bool:
    """Whether a column's name stands at the right, above numbers."""
    return any(cell["number"] for cell in column) and all(cell["number"] or cell["none"] for cell in column)
