"""What is told of a study, once: the same headings, tables and sentences for Markdown and HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from moonrec.atomic import atomic_file
from moonrec.report import Report
from moonrec.text_tables import markdown_table

Line = Mapping[str, str]
KeyFigure = tuple[str, object, str]
"""Label, value and note, for `Report.headline`."""
_DPI = 150


@dataclass(frozen=True)
class Plot:
    """A figure, its name (a file name without its end) and what is to be said below it."""

    name: str
    figure: Figure
    caption: str

    def save(self, folder: Path) -> None:
        """Write `<name>.png`."""
        with atomic_file(folder / f"{self.name}.png") as temporary:
            self.figure.savefig(temporary, format="png", dpi=_DPI, bbox_inches="tight")


@dataclass(frozen=True)
class Section:
    """A heading, and under it tables with captions, paragraphs and plots; `folded` tables come last, closed
    on the page."""

    heading: str
    tables: Sequence[tuple[str, Sequence[Line]]] = ()
    texts: Sequence[str] = ()
    plots: Sequence[Plot] = ()
    folded: Sequence[tuple[str, Sequence[Line]]] = ()


def add_sections(report: Report, parts: Sequence[Section]) -> None:
    """Add sections to a page."""
    for part in parts:
        report.heading(part.heading)
        for caption, lines in part.tables:
            report.table(lines, caption)
        for paragraph in part.texts:
            report.text(paragraph)
        for plot in part.plots:
            report.figure(plot.figure, plot.caption)
        for caption, lines in part.folded:
            with report.details(caption):
                report.table(lines)


def write_markdown(
    path: Path, title: str, parts: Sequence[Section], subtitle: str = "", pictures: bool = False
) -> None:
    """Write sections as Markdown; with `pictures` their plots stand beside the file and are shown in it."""
    text = [f"# {title}", "", *([subtitle, ""] if subtitle else [])]
    for part in parts:
        text += [f"## {part.heading}", ""]
        for caption, lines in part.tables:
            text += [f"{caption}:", "", *markdown_table(lines), ""]
        for paragraph in part.texts:
            text += [paragraph, ""]
        for plot in part.plots if pictures else ():
            plot.save(path.parent)
            text += [f"![{part.heading}]({plot.name}.png)", ""]
        for caption, lines in part.folded:
            text += [f"{caption}:", "", *markdown_table(lines), ""]
    with atomic_file(path) as temporary:
        temporary.write_text("\n".join(text), encoding="utf-8")
