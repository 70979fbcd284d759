"""What every command shares: `--config`, `--json`, exit codes, one-line errors.

Exit code 0 is success, 2 a mistake of the user (one line, no traceback), 1 a bug of ours (with a traceback).
Only click is imported here; a command imports what it needs when it runs, so that `--help` is instant.
"""

from __future__ import annotations

import functools
import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import click

from moonrec.errors import UserError
from moonrec.process_group import leave_process_group

_Param = click.Parameter | None
_Context = click.Context | None


class Mistake(click.ClickException):
    """A UserError on its way out: one line on stderr, exit code 2."""

    exit_code = 2


class CommaSeparated(click.ParamType):
    """`a,b,c` on the command line, a list in a config file, a tuple of strings in Python."""

    name = "A,B,..."

    def convert(self, value: Any, param: _Param, ctx: _Context) -> tuple[str, ...]:
        """Split and strip; empty parts are a mistake."""
        parts = [
            str(part).strip() for part in (value if isinstance(value, list | tuple) else value.split(","))
        ]
        if any(not part for part in parts):
            self.fail(f"{value!r} has an empty part", param, ctx)
        return tuple(parts)


class Sizes(CommaSeparated):
    """`256,128,64` on the command line: whole numbers of at least 1."""

    name = "N,N,..."

    def convert(self, value: Any, param: _Param, ctx: _Context) -> tuple[Any, ...]:
        """Whole numbers, in the order given."""
        parts = super().convert(value, param, ctx)
        if not all(part.isascii() and part.isdigit() and 0 < int(part) <= 65_536 for part in parts):
            self.fail(f"{value!r} is not of the form 256,128,64: whole numbers of at least 1", param, ctx)
        return tuple(int(part) for part in parts)


class FiniteFloat(click.FloatRange):
    """A number of at least 0 (above 0 with `min_open`) that is neither infinite nor NaN."""

    def __init__(self, min_open: bool = False) -> None:
        super().__init__(min=0, min_open=min_open)

    def convert(self, value: Any, param: _Param, ctx: _Context) -> float:
        """Check the range, then that it is finite (NaN is in every range)."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number", param, ctx)
        return number


class Ratio(click.ParamType):
    """`3:1` on the command line, `[3, 1]` in a config file, two floats in Python."""

    name = "A:B"

    def convert(self, value: Any, param: _Param, ctx: _Context) -> tuple[float, float]:
        """Two numbers of at least 0, not both 0."""
        parts = value if isinstance(value, list | tuple) else str(value).split(":")
        try:
            first, second = (float(part) for part in parts)
        except (TypeError, ValueError):
            self.fail(f"{value!r} is not of the form A:B, such as 1:1", param, ctx)
        if not (0 <= first < float("inf") and 0 <= second < float("inf") and first + second > 0):
            self.fail(f"{value!r}: shares are numbers of at least 0, and not both 0", param, ctx)
        return first, second


def _read_config(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    """Take a YAML file's values as defaults of the flags of the same names; flags on the command line win."""
    if value is None:
        return
    values = _read_yaml(value)
    if not isinstance(values, dict):
        raise Mistake(f"{value}: expected a mapping of option names to values")
    by_flag = {
        _key(flag): option for option in ctx.command.params for flag in option.opts if flag.startswith("--")
    }
    del by_flag["config"]
    defaults: dict[str, Any] = {}
    for name, given in values.items():
        option = by_flag.get(_key(str(name)))
        if option is None or option.name is None:
            known = ", ".join(sorted(by_flag))
            raise Mistake(f"{value}: unknown option {name!r}; {ctx.command.name} knows: {known}")
        if given is not None:
            defaults[option.name] = _as_typed(value, str(name), option, given)
    ctx.default_map = defaults


def _read_yaml(path: str) -> Any:
    """The content of a YAML file with every scalar but null as the text that stands there.

    The flag's own type reads it then, as on the command line. YAML itself would make 181 of `3:1`, 7 of `007`
    and 202401 of `2024_01`.
    """
    import yaml

    class Texts(yaml.SafeLoader):
        yaml_implicit_resolvers: ClassVar = {
            first: [pair for pair in pairs if pair[0] == "tag:yaml.org,2002:null"]
            for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }

    try:
        loader = Texts(Path(path).read_text(encoding="utf-8"))
        content = loader.get_single_data()
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise Mistake(f"{path}: cannot be read as YAML ({' '.join(str(error).split())})") from error
    return {} if content is None else content


def _as_typed(path: str, name: str, option: click.Parameter, given: Any) -> Any:
    """What the command line would have given to the option: a text, or several where the type takes them."""
    several = isinstance(option.type, CommaSeparated | Ratio)
    parts = given if several and isinstance(given, list) else [given]
    if any(isinstance(part, list | dict) or part is None for part in parts):
        wanted = "a value or a list of values" if several else "a single value"
        raise Mistake(f"{path}: {name}: expected {wanted}, found {given!r}")
    return [str(part) for part in given] if parts is given else str(given)


def _key(name: str) -> str:
    return name.lstrip("-").replace("-", "_")


def command(group: click.Group, name: str) -> Callable[[Callable[..., Mapping[str, Any]]], click.Command]:
    """Register a command whose function returns its results; they are printed, as JSON with `--json`."""

    def register(function: Callable[..., Mapping[str, Any]]) -> click.Command:
        @functools.wraps(function)
        def run(json_: bool, **options: Any) -> None:
            try:
                results = function(**options)
            except UserError as error:
                raise Mistake(str(error)) from error
            except ImportError as error:
                if type(error).__name__ == "BrokenInstallation":
                    raise Mistake(str(error)) from error
                raise
            if int(os.environ.get("RANK", "0")) == 0:
                click.echo(json.dumps(results, indent=2, default=str) if json_ else _readable(results))
            leave_process_group()
            if results.get("ok") is False:
                raise SystemExit(2)

        run = click.option("--json", "json_", is_flag=True, help="Print the results as JSON.")(run)
        run = click.option(
            "--config", is_eager=True, expose_value=False, callback=_read_config, metavar="FILE.yaml",
            help="Read options from a YAML file of flag names; flags win.",
        )(run)  # fmt: skip
        return group.command(name)(run)

    return register


def _readable(results: Mapping[str, Any], indent: int = 0) -> str:
    """Nested results as indented lines; a `lines` entry is shown as it is."""
    if "lines" in results:
        return "\n".join(results["lines"])
    text = []
    for name, value in results.items():
        pad = "  " * indent
        if isinstance(value, Mapping) and value:
            text += [f"{pad}{name}", _readable(value, indent + 1)]
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            text.append(f"{pad}{name}")
            text += [
                "  " * (indent + 1) + "  ".join(f"{k} {_short(v)}" for k, v in row.items()) for row in value
            ]
        else:
            text.append(f"{pad}{name}: {_short(value)}")
    return "\n".join(text)


def _short(value: Any) -> str:
    if value is None:
        return "undefined"
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
