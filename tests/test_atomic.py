"""Outputs are the old one or the new one, whatever kills the writer, and dead writers leave no rubbish."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from moonrec.atomic import _exchange, atomic_file, atomic_folder, replace_folder, write_json
from moonrec.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
WRITE_FOREVER = """
    import sys, time
    from pathlib import Path
    from moonrec.atomic import atomic_folder
    with atomic_folder(Path(sys.argv[1])) as folder:
        (folder / "a").write_text("half")
        print("writing", flush=True)
        time.sleep(600)
"""


def start(script: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), *arguments],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


@contextmanager
def writer_of(path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that is in the midst of writing the folder `path`; it is killed in the end."""
    with start(WRITE_FOREVER, str(path)) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        try:
            yield process
        finally:
            process.send_signal(signal.SIGKILL)


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def write_folder(path: Path, **files: str) -> None:
    with atomic_folder(path) as folder:
        for name, text in files.items():
            (folder / name).write_text(text)


def dead_process() -> int:
    """The number of a process that is gone."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_folder_replaces_the_whole_old_one(tmp_path: Path) -> None:
    write_folder(tmp_path / "deep" / "set", a="1", b="1")
    write_folder(tmp_path / "deep" / "set", a="2")
    assert names(tmp_path / "deep" / "set") == ["a"]
    assert (tmp_path / "deep" / "set" / "a").read_text() == "2"
    assert names(tmp_path / "deep") == ["set"]


def test_an_exception_leaves_the_old_output_and_nothing_else(tmp_path: Path) -> None:
    write_folder(tmp_path / "set", a="old")
    write_json(tmp_path / "file", "old")

    def stop_folder() -> None:
        with atomic_folder(tmp_path / "set") as folder:
            (folder / "a").write_text("half")
            raise KeyboardInterrupt

    def stop_file() -> None:
        with atomic_file(tmp_path / "file") as file:
            file.write_text("half")
            raise KeyboardInterrupt

    for stop in (stop_folder, stop_file):
        with pytest.raises(KeyboardInterrupt):
            stop()
    assert (tmp_path / "set" / "a").read_text() == "old"
    assert json.loads((tmp_path / "file").read_text()) == "old"
    assert names(tmp_path) == ["file", "set"]


def test_json_without_a_json_form_leaves_the_old_file(tmp_path: Path) -> None:
    write_json(tmp_path / "file", {"auc": 0.5})
    for bad in (float("nan"), float("inf"), object()):
        with pytest.raises((ValueError, TypeError)):
            write_json(tmp_path / "file", {"auc": bad})
    assert json.loads((tmp_path / "file").read_text()) == {"auc": 0.5}
    assert names(tmp_path) == ["file"]


def test_a_killed_writer_leaves_the_old_folder_and_the_next_one_cleans_up(tmp_path: Path) -> None:
    write_folder(tmp_path / "set", a="old", b="old")
    with writer_of(tmp_path / "set") as process:
        pass
    assert names(tmp_path) == [f".set.tmp-{process.pid}", "set"]
    assert [file.read_text() for file in (tmp_path / "set").iterdir()] == ["old", "old"]
    write_folder(tmp_path / "set", a="new")
    assert names(tmp_path) == ["set"]


def test_a_living_writer_keeps_its_folder(tmp_path: Path) -> None:
    with writer_of(tmp_path / "set") as process:
        write_folder(tmp_path / "set", a="mine")
        assert names(tmp_path) == [f".set.tmp-{process.pid}", "set"]


def test_a_locked_leftover_is_kept_although_its_process_number_is_free(tmp_path: Path) -> None:
    """As in two containers that share a folder and do not see each other's processes."""
    with writer_of(tmp_path / "set") as process:
        foreign = tmp_path / f".set.tmp-{dead_process()}"
        (tmp_path / f".set.tmp-{process.pid}").rename(foreign)
        write_folder(tmp_path / "set", a="mine")
        assert (foreign / "a").read_text() == "half"


def test_leftovers_of_an_earlier_process_with_our_number_do_not_stand_in_the_way(tmp_path: Path) -> None:
    """As in a container, where every process is number 1."""
    (tmp_path / f".set.tmp-{os.getpid()}").mkdir()
    (tmp_path / f".file.tmp-{os.getpid()}").write_text("a longer text than the new one")
    write_folder(tmp_path / "set", a="new")
    write_json(tmp_path / "file", 1)
    assert names(tmp_path) == ["file", "set"]
    assert (tmp_path / "file").read_text() == "1\n"


def test_only_leftovers_of_the_same_name_go(tmp_path: Path) -> None:
    gone = dead_process()
    kept = [f".other.tmp-{gone}", f".set.x.tmp-{gone}", ".set.tmp-mine", f"set.tmp-{gone}", ".set.lock"]
    for name in kept:
        (tmp_path / name).mkdir()
    (tmp_path / "target").mkdir()
    (tmp_path / f".set.tmp-{gone}9999999999999999999").symlink_to(tmp_path / "target")
    (tmp_path / f".set.tmp-{gone}").write_text("of a killed atomic_file")
    write_folder(tmp_path / "set", a="new")
    left = names(tmp_path)
    assert f".set.tmp-{gone}" not in left
    assert {*kept, "target", "set"} <= set(left)


def test_the_last_copy_of_a_writer_killed_between_two_renames_is_kept(tmp_path: Path) -> None:
    old = tmp_path / f".set.old-{dead_process()}"
    old.mkdir()
    with atomic_folder(tmp_path / "set"):
        assert old.exists()
    write_folder(tmp_path / "set", a="newer")
    assert names(tmp_path) == ["set"]


def test_a_second_writer_in_one_process_is_refused_and_the_first_unharmed(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "set") as folder:
        (folder / "a").write_text("first")
        with pytest.raises(UserError, match="is being written"):
            write_folder(tmp_path / "set", a="second")
    assert (tmp_path / "set" / "a").read_text() == "first"


def test_a_reader_never_misses_the_folder_while_it_is_replaced(tmp_path: Path) -> None:
    target, missing, stop = tmp_path / "set", [], threading.Event()
    write_folder(target, a="0")

    def read() -> None:
        while not stop.is_set():
            try:
                os.stat(target / "a")
            except FileNotFoundError:
                missing.append(1)

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(300):
        write_folder(target, a=str(number))
    stop.set()
    reader.join()
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    assert not missing or not _exchange(tmp_path / "one", tmp_path / "two"), "the disk can exchange folders"
    assert (target / "a").read_text() == "299"


def test_a_link_is_replaced_and_its_target_stays(tmp_path: Path) -> None:
    write_folder(tmp_path / "first", a="first")
    (tmp_path / "latest").symlink_to("first")
    (tmp_path / "dangling").symlink_to("nowhere")
    for name in ("latest", "dangling"):
        (tmp_path / "new").mkdir()
        replace_folder(tmp_path / "new", tmp_path / name)
        assert not (tmp_path / name).is_symlink()
        assert names(tmp_path / name) == []
    assert (tmp_path / "first" / "a").read_text() == "first"
    assert names(tmp_path) == ["dangling", "first", "latest"]


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_a_full_disk_is_one_line_and_the_old_output_stays(tmp_path: Path, kind: str) -> None:
    """A limit on file sizes fails like a full disk, and needs no rights to set up."""
    target = tmp_path / "out"
    if kind == "folder":
        write_folder(target, a="old")
    else:
        target.write_text("old")
    script = f"""
        import resource
        from moonrec.atomic import atomic_{kind}
        from moonrec.errors import UserError
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        try:
            with atomic_{kind}({str(target)!r}) as place:
                (place / "a" if {kind == "folder"} else place).write_bytes(bytes(100_000))
        except UserError as error:
            print(error)
    """
    with start(script) as process:
        output = process.communicate()[0]
    assert output.count("\n") == 1
    assert f"{target}: cannot be written" in output
    assert (target / "a" if kind == "folder" else target).read_text() == "old"
    assert names(tmp_path) == ["out"]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"out: cannot be written.*choose another"):
        write_folder(tmp_path / "file" / "out", a="new")
    with pytest.raises(UserError, match=r"out: cannot be written.*choose another"):
        write_json(tmp_path / "file" / "deep" / "out", 1)


@pytest.mark.parametrize("name", ["x" * 300, "x" * 300 + "/out", "/proc/nowhere", "/proc/nowhere/out"])
def test_a_place_that_cannot_be_is_named(tmp_path: Path, name: str) -> None:
    for write in (write_folder, lambda path: write_json(path, 1)):
        with pytest.raises(UserError, match=r"cannot be written \(.*\); choose another output"):
            write(tmp_path / name)


def test_a_file_that_was_forgotten_in_an_output_is_a_bug(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_folder(tmp_path / "set") as folder:
        (folder / "vectors").read_bytes()


def test_errors_about_other_places_are_not_blamed_on_the_output(tmp_path: Path) -> None:
    (tmp_path / "input").write_text("")
    with pytest.raises(NotADirectoryError), atomic_folder(tmp_path / "set"):
        (tmp_path / "input" / "table").read_text()


def test_a_device_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="is a device or a pipe"), atomic_file(tmp_path / "pipe"):
        pass
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
