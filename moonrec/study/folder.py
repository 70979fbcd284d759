"""The folder of a study, which grows cell by cell: known as ours from the first one on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from moonrec.atomic import atomic_file, storage_errors, write_json
from moonrec.progress import duration, say
from moonrec.runs import locked, options_text, provenance_of, refuse_other_run

Cell = TypeVar("Cell")


@dataclass(frozen=True)
class StudyFolder:
    """An output folder that a command makes or goes on with.

    Attributes:
        out: the folder; it need not be there.
        command: of moonrec.

    Raises:
        UserError: `out` is another command's or somebody else's.
    """

    out: Path
    command: str
    _started: datetime = field(default_factory=lambda: datetime.now(UTC))

    def __post_init__(self) -> None:
        refuse_other_run(self.out, self.command)

    @property
    def cells(self) -> Path:
        """Where cells stand."""
        return self.out / "cells"

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the right to write the folder.

        Raises:
            UserError: another process holds it, or the folder cannot be written.
        """
        with storage_errors(self.out), locked(self.out):
            yield

    def say(self, text: str) -> None:
        """Tell a line on stderr."""
        say(self.command, text)

    def compute(
        self,
        missing: Sequence[Cell],
        title: Callable[[Cell], str],
        run: Callable[[Cell], object],
        seconds: Callable[[Sequence[Cell]], float],
    ) -> None:
        """Run cells one after the other, and tell how far that is.

        Args:
            missing: the cells.
            title: of a cell, for readers.
            run: computes one.
            seconds: a guess at how long the cells that are left will take.
        """
        if not self._provenance.exists():
            # From the first cell on, so that the folder is known as ours when this is stopped.
            write_json(
                self._provenance,
                {"command": self.command, "started": self._started.isoformat(timespec="seconds")},
            )
        for number, cell in enumerate(missing, start=1):
            self.say(f"{title(cell)} ({number} of {len(missing)})")
            run(cell)
            if left := missing[number:]:
                self.say(f"about {duration(seconds(left))} to go: a rough guess from the cells so far")

    def finish(self, config: Mapping[str, Any], inputs: Mapping[str, str], **about: Any) -> None:
        """Write `config.yaml` and `provenance.json`; `about` is what else the latter tells."""
        with atomic_file(self.out / "config.yaml") as temporary:
            temporary.write_text(options_text(config), encoding="utf-8")
        write_json(self._provenance, provenance_of(self.command, inputs, self._started, **about))

    @property
    def _provenance(self) -> Path:
        return self.out / "provenance.json"


def where(out: Path) -> list[str]:
    """The last lines of what a study prints: where the rest stands."""
    return ["", f"Table: {out / 'table.md'}", f"Report: {out / 'report.html'}"]
