"""The command line: quick help, configs that flags win over, one line and exit code 2 for mistakes."""

from __future__ import annotations

import dataclasses
import importlib
import json
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from click.testing import CliRunner, Result

from moonrec.cli import main
from moonrec.cli.framework import CommaSeparated, Ratio, command
from moonrec.doctor import BrokenInstallation
from moonrec.errors import UserError
from moonrec.runs import open_run

ROOT = Path(__file__).resolve().parent.parent
SECONDS_FOR_HELP = 0.3
CONFIGS = {
    "posttrain": ("encoders.posttrain", "PosttrainConfig"),
    "evaluate": ("encoders.evaluate", "EvaluateConfig"),
    "train-ctr": ("ctr.train", "TrainConfig"),
}
FAILURES: dict[str, BaseException] = {
    "user": UserError("table.parquet: row 17:\n the label is 2, expected 0 or 1"),
    "broken": BrokenInstallation("torch is a CPU build. Mend it with: pip install this"),
    "import": ImportError("no module"),
    "bug": ZeroDivisionError("ours"),
}


@click.group()
def group() -> None:
    """A command line with one command, built as moonrec's own are."""


@command(group, "learn")
@click.option("--items", required=True)
@click.option("--from", "from_", default="compact")
@click.option("--event-types", type=CommaSeparated(), default=())
@click.option("--mix", type=Ratio(), default="1:1")
@click.option("--epochs", default=30, type=click.IntRange(0))
@click.option("--learning-rate", default=3e-4)
@click.option("--train-towers", is_flag=True)
@click.option("--cache")
@click.option("--fail", type=click.Choice(list(FAILURES)))
@click.option("--finding", is_flag=True)
@click.option("-o", "--out")
def learn(finding: bool, fail: str | None, **options: Any) -> dict[str, Any]:
    """Return the options as results, or fail."""
    if fail:
        raise FAILURES[fail]
    if finding:
        return {"ok": False, "lines": ["row 3 is bad"]}
    if options["out"]:
        flags = {key.rstrip("_"): list(v) if isinstance(v, tuple) else v for key, v in options.items()}
        with open_run(options["out"], "learn", flags, {}, 0) as run:
            run.save_metrics({})
    return options


def call(*arguments: str) -> Result:
    return CliRunner().invoke(group, ["learn", *arguments])


def results(*arguments: str) -> dict[str, Any]:
    result = call("--json", *arguments)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def config(folder: Path, text: str) -> str:
    (folder / "options.yaml").write_text(textwrap.dedent(text), encoding="utf-8")
    return str(folder / "options.yaml")


def one_line(result: Result) -> str:
    """The line that a mistake of the user ends with."""
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1, result.stderr
    return result.stderr


@pytest.mark.alone
@pytest.mark.parametrize("name", ["", *sorted(main.commands)])
def test_help_is_instant(name: str) -> None:
    seconds = []
    command = [sys.executable, "-m", "moonrec.cli", *name.split(), "--help"]
    for _ in range(3):
        started = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
        seconds.append(time.perf_counter() - started)
        if seconds[-1] < SECONDS_FOR_HELP:
            break
    assert min(seconds) < SECONDS_FOR_HELP, seconds


@pytest.mark.parametrize("name", sorted(main.commands))
def test_every_command_explains_itself_and_takes_config_and_json(name: str) -> None:
    entry = main.commands[name]
    assert entry.help
    assert {"--config", "--json"} <= {flag for option in entry.params for flag in option.opts}


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_options_and_the_config_class_of_a_command_are_the_same(name: str) -> None:
    """Every option is used, every field can be set, and both have the same defaults."""
    module, attribute = CONFIGS[name]
    fields = dataclasses.fields(getattr(importlib.import_module(module), attribute))
    required = {field.name for field in fields if field.default is dataclasses.MISSING}
    entry = main.commands[name]
    assert {option.name for option in entry.params if option.required} == required
    given = [text for key in required for text in (f"--{key}", "given")]
    parsed = entry.make_context(name, given).params
    expected = {field.name: "given" if field.name in required else field.default for field in fields}
    assert {key: value for key, value in parsed.items() if key not in ("json_", "no_cache")} == expected


def test_export_knows_the_options_of_a_catalogue_and_those_of_queries() -> None:
    classes = (("encoders.export", "ExportConfig"), ("encoders.query_export", "QueryExportConfig"))
    fields = [
        f for at, name in classes for f in dataclasses.fields(getattr(importlib.import_module(at), name))
    ]
    parsed = main.commands["export"].make_context("export", ["--encoder", "x", "-o", "x"]).params
    given = {"items": None, "queries": (), "encoder": "x", "out": "x", "json_": False, "no_cache": False}
    assert parsed == {f.name: f.default for f in fields} | given


def test_flags_and_configs_name_options_alike(tmp_path: Path) -> None:
    path = config(
        tmp_path,
        """
        items: items.parquet
        from: run
        event-types: [click, cart]
        learning_rate: 1e-3
        --epochs: 5
        train_towers: true
        cache: null
        """,
    )
    found = results("--config", path)
    assert found == {
        "items": "items.parquet",
        "from_": "run",
        "event_types": ["click", "cart"],
        "mix": [1.0, 1.0],
        "epochs": 5,
        "learning_rate": 1e-3,
        "train_towers": True,
        "cache": None,
        "out": None,
    }


def test_flags_win_over_the_config_wherever_they_stand(tmp_path: Path) -> None:
    path = config(tmp_path, "items: a\nepochs: 5\n")
    assert results("--config", path, "--epochs", "6")["epochs"] == 6
    assert results("--epochs", "6", "--config", path)["epochs"] == 6


@pytest.mark.parametrize(
    ("text", "option", "value"),
    [
        ("items: 007", "items", "007"),
        ("items: 2024_01", "items", "2024_01"),
        ("items: 2024-01-31", "items", "2024-01-31"),
        ("items: on", "items", "on"),
        ("items: a\nmix: 3:1", "mix", [3.0, 1.0]),
        ("items: a\nmix: [3, 1]", "mix", [3.0, 1.0]),
        ("items: a\nevent_types: 3", "event_types", ["3"]),
        ("items: a\nevent_types: click, cart", "event_types", ["click", "cart"]),
        ("items: a\nevent_types: []", "event_types", []),
        ("items: a\ncache: ''", "cache", ""),
        ("items: a\nepochs:", "epochs", 30),
    ],
)
def test_a_config_means_what_the_same_text_means_as_a_flag(
    tmp_path: Path, text: str, option: str, value: object
) -> None:
    assert results("--config", config(tmp_path, text))[option] == value


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("epoch: 3", "unknown option 'epoch'"),
        ("config: other.yaml", "unknown option 'config'"),
        ("- items", "expected a mapping"),
        ("items", "expected a mapping"),
        ("items: [a: b", "cannot be read as YAML"),
        ("items: !!python/object/apply:os.getcwd []", "cannot be read as YAML"),
        ("items: [a, b]", "items: expected a single value"),
        ("epochs: [1]", "epochs: expected a single value"),
        ("mix: {a: 1}", "mix: expected a value or a list of values"),
        ("event_types: [[click]]", "event_types: expected a value or a list of values"),
    ],
)
def test_mistakes_in_a_config_are_one_line_that_names_it(tmp_path: Path, text: str, said: str) -> None:
    line = one_line(call("--config", config(tmp_path, text)))
    assert "options.yaml" in line
    assert said in line


def test_a_config_that_cannot_be_read_is_one_line_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x80")
    for name in ("absent.yaml", "binary.yaml", "."):
        assert str(tmp_path / name) in one_line(call("--config", str(tmp_path / name)))


@pytest.mark.parametrize(
    "text", ["epochs: 2.5", "epochs: many", "mix: 0:0", "train_towers: 3", "fail: never"]
)
def test_a_value_of_the_wrong_type_in_a_config_names_the_option(tmp_path: Path, text: str) -> None:
    result = call("--config", config(tmp_path, "items: a\n" + text))
    assert result.exit_code == 2
    assert f"Invalid value for '--{text.split(':')[0].replace('_', '-')}'" in result.stderr


def test_the_config_of_a_run_makes_the_same_run(tmp_path: Path) -> None:
    first = results(
        "--items", "007", "--from", "a b", "--event-types", "click,cart", "--mix", "3:1", "--cache", "",
        "--train-towers", "-o", str(tmp_path / "run"),
    )  # fmt: skip
    path = tmp_path / "run" / "config.yaml"
    assert yaml.safe_load(path.read_text())["items"] == "007"
    assert results("--config", str(path)) == first
    assert results("--config", str(path), "-o", str(tmp_path / "other")) == first | {
        "out": str(tmp_path / "other")
    }
    assert yaml.safe_load((tmp_path / "other" / "config.yaml").read_text())["mix"] == [3.0, 1.0]


def test_results_are_readable_or_json() -> None:
    assert "epochs: 30" in call("--items", "a").stdout.splitlines()
    assert results("--items", "a")["epochs"] == 30


def test_json_stands_alone_on_standard_output() -> None:
    """With all libraries loaded, which like to talk."""
    result = subprocess.run(
        [sys.executable, "-m", "moonrec.cli", "doctor", "--json"], capture_output=True, text=True, cwd=ROOT
    )
    assert json.loads(result.stdout)["problems"] == []
    assert result.returncode == 0


def test_only_the_first_process_of_a_distributed_run_prints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    assert call("--items", "a").stdout == ""


def test_a_mistake_of_the_user_is_one_line_and_exit_code_2() -> None:
    assert one_line(call("--items", "a", "--fail", "user")) == (
        "Error: table.parquet: row 17: the label is 2, expected 0 or 1\n"
    )


def test_a_broken_installation_is_one_line_and_exit_code_2() -> None:
    assert "Mend it with: pip install this" in one_line(call("--items", "a", "--fail", "broken"))


def test_findings_are_exit_code_2_with_the_results_printed() -> None:
    result = call("--items", "a", "--finding")
    assert (result.exit_code, result.stdout) == (2, "row 3 is bad\n")
    assert json.loads(call("--items", "a", "--finding", "--json").stdout)["ok"] is False


@pytest.mark.parametrize(("fail", "kind"), [("bug", "ZeroDivisionError"), ("import", "ImportError")])
def test_a_bug_is_a_traceback_and_exit_code_1(fail: str, kind: str) -> None:
    script = f"from tests.test_cli import group; group(['learn', '--items', 'a', '--fail', '{fail}'])"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 1
    assert "Traceback" in result.stderr
    assert kind in result.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("text", "value"),
    [("1:1", (1, 1)), ("3:1", (3, 1)), ("0:1", (0, 1)), (" 0.5 : 2", (0.5, 2)), ((3, 1), (3, 1))],
)
def test_ratios(text: object, value: tuple[float, float]) -> None:
    assert Ratio().convert(text, None, None) == value


@pytest.mark.parametrize(
    "text", ["", "1", "1:", "1:2:3", "a:b", "-1:1", "0:0", "nan:1", "inf:1", ["1"], [None, 1]]
)
def test_what_is_no_ratio_is_refused(text: object) -> None:
    with pytest.raises(click.BadParameter):
        Ratio().convert(text, None, None)


@pytest.mark.parametrize(
    ("text", "value"),
    [("a", ("a",)), ("a, b", ("a", "b")), (["a", "b"], ("a", "b")), ((), ()), ("007", ("007",))],
)
def test_comma_separated_texts(text: object, value: tuple[str, ...]) -> None:
    assert CommaSeparated().convert(text, None, None) == value


@pytest.mark.parametrize("text", ["", "a,", ",a", "a,,b", " ", ["a", ""]])
def test_empty_parts_are_refused(text: object) -> None:
    with pytest.raises(click.BadParameter, match="empty part"):
        CommaSeparated().convert(text, None, None)


@pytest.mark.parametrize(
    "arguments",
    [
        "posttrain --items absent.parquet --searches s.parquet -o out",
        "export --encoder compact --items absent.parquet -o out",
        "evaluate --encoder compact --items i.parquet --searches absent.parquet -o out",
        "evaluate --embeddings absent.parquet --searches absent.parquet -o out",
        "train-ctr --impressions absent.parquet --test t.parquet --events e.parquet -o out",
        "import-embeddings absent.parquet -o out",
    ],
)
def test_a_missing_input_is_one_line_that_names_it_and_nothing_is_left(
    arguments: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "absent.parquet: no such file" in one_line(CliRunner().invoke(main, arguments.split()))
    assert list(tmp_path.iterdir()) == []


def test_validate_names_a_missing_folder(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["validate", str(tmp_path / "absent")])
    assert result.exit_code == 2
    assert result.stdout.startswith(f"error: {tmp_path / 'absent'}: no such file or folder")


def test_missing_required_options_are_named() -> None:
    for name, entry in main.commands.items():
        if any(option.required for option in entry.params):
            result = CliRunner().invoke(main, [name])
            assert (result.exit_code, "Missing" in result.stderr) == (2, True)
