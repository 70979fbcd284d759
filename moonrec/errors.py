"""The exception that means "you made a mistake": the command line turns it into a line and exit code 2."""

from __future__ import annotations


class UserError(Exception):
    """A mistake in what the caller gave us, told in one line: where, what was found, what was expected."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))
