"""Files: encodings, hostile JSON, atomic writes, and errors as sentences."""

from __future__ import annotations

import codecs
import errno
import os
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from pydantic import BaseModel, Field, ValidationError

import cap2im
from cap2im import files
from cap2im.blueprint import weights_header
from cap2im.convert.legacy import convert
from cap2im.training.state import check_run
from tests.kills import run_child


class Point(BaseModel):
    x: int
    y: int = 0


@pytest.mark.parametrize(
    "data",
    [
        b"a red bus\n",
        codecs.BOM_UTF8 + b"a red bus\n",
        codecs.BOM_UTF16_LE + "a red bus\n".encode("utf-16-le"),
        codecs.BOM_UTF16_BE + "a red bus\n".encode("utf-16-be"),
        codecs.BOM_UTF32_LE + "a red bus\n".encode("utf-32-le"),
        codecs.BOM_UTF32_BE + "a red bus\n".encode("utf-32-be"),
    ],
)
def test_text_is_decoded_by_its_mark(data):
    assert files.decode_text(data, "captions.txt") == "a red bus\n"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"one\ncaf\xe9\n", "captions.txt: line 2 is not UTF-8 (byte 0xe9); save the file as UTF-8"),
        ("one\r\ntwo\r\ncaf\xe9".encode("latin-1"), "captions.txt: line 3 is not UTF-8 (byte 0xe9); save the file as UTF-8"),
        ("one\ntwo".encode("utf-16-le"), "captions.txt: line 1 holds a NUL byte"),
        (codecs.BOM_UTF16_LE + b"a", "captions.txt: has the byte order mark of UTF-16-LE and is damaged"),
    ],
)
def test_other_encodings_are_refused_with_the_line(data, message):
    with pytest.raises(ValueError, match=r"captions\.txt") as error:
        files.decode_text(data, "captions.txt")
    assert str(error.value).startswith(message)


def test_lines_end_at_line_feeds_only():
    assert files.split_lines("a\u2028b\nc\r\nd\re\x0cf\n") == ["a\u2028b", "c", "d", "e\x0cf"]
    assert files.split_lines("") == []
    assert files.split_lines("a") == ["a"]


def test_irregular_files_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name, reason in [
        ("pipe", "is a FIFO"),
        (".", "is a folder"),
        ("absent", "no such file"),
        ("loop", "Too many levels"),
        ("a\0b", "null"),
    ]:
        with pytest.raises(ValueError, match=reason):
            files.read_text(tmp_path / name)
    with pytest.raises(ValueError, match="is a device"):
        files.read_text(Path(os.devnull))


def test_a_large_file_is_refused_before_it_is_read(tmp_path):
    with open(tmp_path / "large.json", "wb") as file:
        file.truncate(files.LARGEST_DOCUMENT + 1)
    with pytest.raises(ValueError, match="at most"):
        files.read_json(tmp_path / "large.json", Point)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ('{"x": "a"}', "p.json: x: Input should be a valid integer, unable to parse string as an integer, got 'a'"),
        ("[1]", "p.json: Input should be an object"),
        ("[" * 100_000, "p.json: Invalid JSON"),
        ('{"x": ' + "9" * 10_000 + "}", "p.json: Invalid JSON: number out of range"),
        (b"\xff\xfe\x00", "p.json: has the byte order mark"),
        ('{"x": 1, "y": [' + "[]," * 10_000_000 + "1]}", "p.json: JSON of 10,000,001 values; at most 1,073,741,824 bytes of memory"),
        ("[" + '{"a":1},' * 5_000_000 + "1]", "p.json: JSON of 5,000,000 values; at most"),
    ],
)
def test_hostile_json_is_one_line(data, message):
    with pytest.raises(ValueError, match=r"p\.json") as error:
        files.parse_json(data, Point, "p.json")
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300


def test_json_may_have_a_mark():
    assert files.parse_json(codecs.BOM_UTF8 + b'{"x": 3}', Point, "p.json") == Point(x=3)


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    target = tmp_path / "result.json"
    files.write_atomically(target, "old")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="cannot write") as error:
        files.write_atomically(target, "new")
    assert error.value.filename == str(target)
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


def test_a_written_file_has_the_mode_of_any_new_file(tmp_path):
    files.write_atomically(tmp_path / "a", b"1")
    (tmp_path / "b").touch()
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_the_draft_of_a_killed_process_is_overwritten(tmp_path):
    run_child(lambda: files.write_atomically(tmp_path / "a", b"a much longer content"), kill_at=4)
    left = [path for path in tmp_path.iterdir() if path.name.endswith(".draft")]
    assert len(left) == 1
    files.write_atomically(tmp_path / "a", b"short")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"short"}


@pytest.mark.parametrize("old", [None, b"old"])
def test_a_kill_at_any_operation_leaves_the_old_file_or_the_new(tmp_path, old):
    path = tmp_path / "a"
    counted = tmp_path / "counted"
    for kill_at in range(1, run_child(lambda: files.write_atomically(counted, b"new")) + 1):
        path.unlink(missing_ok=True)
        if old is not None:
            path.write_bytes(old)
        run_child(lambda: files.write_atomically(path, b"new"), kill_at)
        assert (path.read_bytes() if path.exists() else None) in (old, b"new")


def test_two_writers_of_a_file_do_not_mix(tmp_path):
    with files.atomic_path(tmp_path / "a") as first:
        first.write_bytes(b"first")
        with files.atomic_path(tmp_path / "a") as second:
            assert second != first
            second.write_bytes(b"second")
        assert (tmp_path / "a").read_bytes() == b"second"
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"first"}


def test_a_link_in_the_place_of_the_draft_is_not_written_through(tmp_path):
    (tmp_path / "secret").write_text("secret")
    with files.atomic_path(tmp_path / "a") as draft:
        name = draft.name
    (tmp_path / name).symlink_to(tmp_path / "secret")
    with pytest.raises(OSError, match="cannot write") as error:
        files.write_atomically(tmp_path / "a", b"new")
    assert error.value.filename == str(tmp_path / "a")
    assert (tmp_path / "secret").read_text() == "secret"


@pytest.mark.parametrize("name", ["a" * 255, "é" * 127, "%s {} [x] *", " ", "-a", "con"])
def test_names_of_every_length_and_kind_are_written(tmp_path, name):
    files.write_atomically(tmp_path / name, b"1")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_the_error_of_a_long_name_has_the_name(tmp_path):
    with pytest.raises(OSError, match="File name too long") as error:
        files.write_atomically(tmp_path / ("a" * 256), b"1")
    assert error.value.filename == str(tmp_path / ("a" * 256))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])
@pytest.mark.parametrize("operation", ["open", "fsync", "replace"])
def test_every_failure_of_a_disk_names_the_file(tmp_path, monkeypatch, number, operation):
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    (tmp_path / "a").write_bytes(b"old")
    monkeypatch.setattr(os, operation, fail)
    with pytest.raises(OSError, match=re.escape(f"cannot write ({os.strerror(number)})")) as error:
        files.write_atomically(tmp_path / "a", b"new")
    monkeypatch.undo()
    assert (error.value.errno, error.value.filename) == (number, str(tmp_path / "a"))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"old"}


def test_a_file_that_need_not_be_durable_is_not_flushed(tmp_path, monkeypatch):
    flushed = []
    monkeypatch.setattr(os, "fsync", flushed.append)
    files.write_atomically(tmp_path / "a", b"new", durable=False)
    assert flushed == []
    files.write_atomically(tmp_path / "a", b"newer")
    assert len(flushed) == 1
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"newer"}


@pytest.mark.skipif(sys.platform != "linux", reason="file systems elsewhere have names in UTF-8 alone")
@pytest.mark.parametrize(
    "use",
    [lambda path: check_run(path, False), lambda path: convert(path.parent, path / "out"), lambda path: weights_header(path / "weights")],
)
def test_weights_in_a_path_that_is_not_utf8_are_refused(tmp_path, use):
    files.check_unicode_path(tmp_path / "\u00e9\u2028")
    path = tmp_path / os.fsdecode(b"\xff")
    path.mkdir()
    (path / "weights").write_bytes(b"")
    with pytest.raises(ValueError, match="the path is not UTF-8, or the locale is not"):
        use(path)


def test_json_with_lone_surrogates_is_read_back():
    assert files.parse_json(files.dump_json({"a": "\ud800\u2028é"}), files.JSONObject, "a").root == {"a": "\\ud800\u2028é"}


def test_the_package_has_types():
    assert (Path(cap2im.__file__).parent / "py.typed").is_file()


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (FileExistsError(17, "File exists", "out"), "out: a file or folder of this name is in the way"),
        (NotADirectoryError(20, "Not a directory", "a.txt/b"), "a.txt/b: a part of this path is a file, not a folder"),
        (OSError(28, "cannot write (No space left on device)", "e.json"), "e.json: cannot write (No space left on device)"),
        (OSError(28, "No space left on device"), "cannot be written: the disk is full"),
        (ValueError("[Errno -2] Name or service not known"), "no such host, or no network"),
        (ValueError("<urlopen error [Errno -3] Temporary failure in name resolution>"), "no such host, or no network"),
        (ValueError("two\n lines"), "two lines"),
        (RuntimeError(), "RuntimeError"),
    ],
)
def test_errors_are_sentences(error, message):
    assert files.explain(error) == message


def test_checks_of_outputs_create_nothing(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "a" / "b", tmp_path):
        files.check_writable_folder(path)
    files.check_writable_file(tmp_path / "new.json")
    files.check_writable_file(tmp_path / "file")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    for path, problem in ((tmp_path / "file", "is a file, and a folder is needed"), (tmp_path / "file" / "x", "is a file, not a folder")):
        with pytest.raises(ValueError, match=problem):
            files.check_writable_folder(path)
    os.mkfifo(tmp_path / "fifo")
    for path, problem in (
        (tmp_path, "cannot write this file: is a folder"),
        (tmp_path / "fifo", "cannot write this file: is a FIFO"),
        (tmp_path / "no" / "x", "cannot write this file: no folder"),
        (tmp_path / "file" / "x", "cannot write this file: no folder"),
    ):
        with pytest.raises(ValueError, match=problem):
            files.check_writable_file(path)


@pytest.mark.skipif(not hasattr(os, "statvfs"), reason="Windows tells no flags of a file system")
@pytest.mark.parametrize(("flags", "reason"), [(1, "this file system is read-only"), (0, "permission denied")])
def test_folders_that_cannot_be_written_have_a_reason(tmp_path, monkeypatch, flags, reason):
    monkeypatch.setattr(os, "access", lambda *_: False)  # also where the tests run as root
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_flag=flags))
    with pytest.raises(ValueError, match=f"cannot write into .*: {reason}$"):
        files.check_writable_folder(tmp_path / "new")
    with pytest.raises(ValueError, match=f"cannot write this file: {reason}$"):
        files.check_writable_file(tmp_path / "new.json")


@pytest.mark.parametrize(("value", "got"), [(0, ", got 0"), (-1, ", got -1"), ("a", ", got 'a'")])
def test_a_value_is_told_beside_its_limit(value, got):
    class Positive(BaseModel):
        number: int = Field(gt=0)

    with pytest.raises(ValidationError) as error:
        Positive(number=value)
    assert files.describe(error.value).endswith(got)
