"""Test opening a prepared dataset from a folder or URL; every error is one line."""

from __future__ import annotations

import json
import re

import pytest

from cap2im.data.dataset import PreparedDataset
from cap2im.data.manifest import PROGRESS
from cap2im.data.shards import read_shard
from cap2im.files import file_sha256
from tests.prepared import prepared_dataset


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("nowhere", "nowhere: no such folder; a prepared dataset is needed"),
        ("file", "file: is a file, and the folder of a prepared dataset is needed"),
        ("empty", "empty: not a prepared dataset, it has no manifest.json"),
        ("interrupted", "interrupted: its preparation was interrupted; the same cap2im prepare command with --resume finishes it"),
        ("strange", "manifest.json: is a folder, and a file is needed"),
        ("foo://bucket/x", "foo://bucket/x/manifest.json: cannot be read: Protocol not known: foo"),
        ("http://127.0.0.1:9/x", "http://127.0.0.1:9/x/manifest.json: cannot be read: "),
        ("memory://nothing", "memory://nothing: not a prepared dataset, it has no manifest.json"),
    ],
)
def test_unprepared_folders_are_one_line(tmp_path, monkeypatch, name, problem):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    for folder in ("empty", "interrupted", "strange/manifest.json"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "interrupted" / PROGRESS).write_text("{}")
    with pytest.raises(ValueError, match=re.escape(problem)) as error:
        PreparedDataset.open(name)
    assert "\n" not in str(error.value)


class UnreachableError(Exception):
    """As httpx, botocore and others raise: neither an OSError nor a ValueError."""


def unreachable(*_: object, **__: object) -> None:
    raise UnreachableError("[Errno -2] Name or service not known\nsecond line")


@pytest.mark.parametrize("read", [PreparedDataset.open, read_shard])
def test_any_error_of_a_remote_file_system_is_one_line(monkeypatch, read):
    monkeypatch.setattr("fsspec.open", unreachable)
    with pytest.raises(ValueError, match=r"^hf://datasets/a/b.*no such host, or no network second line$"):
        read("hf://datasets/a/b")


def test_an_altered_vocabulary_is_refused(tmp_path):
    folder = prepared_dataset(tmp_path / "data", train=4)
    words, manifest = folder / "vocabulary.json", folder / "manifest.json"
    document = json.loads(manifest.read_text()) | {"vocabulary": {"sha256": file_sha256(words)}}
    manifest.write_text(json.dumps(document))
    PreparedDataset.open(folder)
    words.write_text(words.read_text().replace('"red"', '"rot"'))
    with pytest.raises(ValueError, match=r"vocabulary\.json: truncated or altered: SHA-256 "):
        PreparedDataset.open(folder)


def test_another_size_offers_the_setting(tmp_path):
    dataset = PreparedDataset.open(prepared_dataset(tmp_path / "data", train=4))
    with pytest.raises(ValueError, match=r"its images are 8 pixels wide, it is 32; prepare with --side 32$"):
        dataset.require_size(32, "it")
    with pytest.raises(ValueError, match=r"prepare with --side 32, or give --set model.side=8$"):
        dataset.require_size(32, "it", "--set model.side=")
