"""Test tar files in WebDataset's layout, and prepared datasets in folders of any name."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from pathlib import Path

import pytest

from cap2im.data.captioned_images import CaptionedImages
from cap2im.data.dataset import PreparedDataset
from cap2im.data.dataset_files import is_url, join_url
from cap2im.data.manifest import SplitCounts
from cap2im.data.prepare import PrepareOptions, prepare_dataset
from cap2im.data.sentence_vectors import load_sentence_vectors
from cap2im.data.shard_batches import ShardBatches
from cap2im.data.sources import guess_kind
from cap2im.data.validate import check_path
from cap2im.data.webdataset import expand_braces, tar_files
from tests.data import sources
from tests.data.test_images import stored
from tests.prepared import prepared_dataset

STRANGE_NAMES = ["p17 [x] 100%", "a*b", "q?x", "h#y", "{1..2}", "e%20x", "~x", " lead", "-dash", "back\\slash", "s3:", "caf\u00e9", "[!a]"]


def shard(path: Path, numbers: range, extra: dict[str, bytes] | None = None) -> Path:
    """A tar file as img2dataset writes it."""
    members = {}
    for number in numbers:
        members[f"{number:05d}.jpg"] = stored(sources.picture(number), "JPEG")
        members[f"{number:05d}.json"] = json.dumps({"caption": f"picture {number}", "status": "success"}).encode()
        members[f"{number:05d}.cls"] = str(number).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in (members | (extra or {})).items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def read(path: object):
    return sources.read("webdataset", path)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("a/{0000..0002}.tar", ["a/0000.tar", "a/0001.tar", "a/0002.tar"]),
        ("a/{8..11}.tar", ["a/8.tar", "a/9.tar", "a/10.tar", "a/11.tar"]),
        ("{train,val}/{1..2}.tar", ["train/1.tar", "train/2.tar", "val/1.tar", "val/2.tar"]),
        ("{2..0}", ["2", "1", "0"]),
        ("{a}.tar", ["{a}.tar"]),
        ("plain.tar", ["plain.tar"]),
        ("{a,{0..1}}", ["a", "0", "1"]),
    ],
)
def test_braces_are_expanded_as_webdataset_does(pattern, expected):
    assert sorted(expand_braces(pattern)) == sorted(expected)


@pytest.mark.parametrize("pattern", ["{0..99999999999}", "{0..9999}{0..9999}", "{0..9" + "9" * 5000 + "}"])
def test_endless_braces_are_refused(pattern):
    with pytest.raises(ValueError, match="more than 100,000 files"):
        expand_braces(pattern)


def test_shards_of_a_pattern_become_a_dataset(tmp_path):
    for number in range(3):
        shard(tmp_path / f"{number:04d}.tar", range(10 * number, 10 * number + 4), {"._00001.jpg": b"x", f"9{number}.txt": b"lost"})
    source = read(tmp_path / "{0000..0002}.tar")
    assert [record.id for record in source.splits["train"]][:5] == ["0000/00000", "0000/00001", "0000/00002", "0000/00003", "0001/00010"]
    assert [record.class_id for record in source.splits["train"]][4:6] == [10, 11]
    assert [problem.kind for problem in source.problems] == ["caption without image"] * 3
    manifest = prepare_dataset(source, tmp_path / "out", kind="webdataset", path="shards", options=PrepareOptions(side=8), workers=1)
    assert manifest.splits == {"train": SplitCounts(images=12, captions=12)}
    images = CaptionedImages(PreparedDataset.open(tmp_path / "out"), "train")
    assert images.captions[5] == "picture 11"
    assert guess_kind(str(tmp_path / "{0000..0002}.tar")) == guess_kind(str(tmp_path / "0000.tar")) == "webdataset"
    with pytest.raises(ValueError, match=r"0003\.tar: no such file"):
        read(tmp_path / "{0000..0003}.tar")


def test_folders_and_names_of_tar_files_are_splits(tmp_path):
    shard(tmp_path / "a" / "train" / "0.tar", range(2))
    shard(tmp_path / "a" / "val" / "0.tar", range(2, 3))
    shard(tmp_path / "a" / "test-0000.tar", range(3, 6))
    for path in (tmp_path / "a", f"{tmp_path}/a/*/0.tar", f"{tmp_path}/a/{{train,val}}/0.tar"):
        splits = {split: len(records) for split, records in read(path).splits.items()}
        assert splits == {"train": 2, "validation": 1} | ({"test": 3} if path == tmp_path / "a" else {})
    assert guess_kind(str(tmp_path / "a")) == "webdataset"


def test_ids_from_tar_names_never_leave_a_folder(tmp_path):
    shard(tmp_path / "0.tar", range(0), {"../../../x.jpg": stored(sources.picture(1), "JPEG"), "../../../x.txt": b"red"})
    shard(tmp_path / "1.tar", range(0), {"/etc/x.jpg": stored(sources.picture(1), "JPEG"), "/etc/x.txt": b"red"})
    assert [record.id for record in read(tmp_path).splits["train"]] == ["0/x", "1/etc/x"]


@pytest.mark.parametrize("content", [b"", b"no tar file", b"\x1f\x8b" + bytes(600), "cut"])
def test_damaged_tar_files_end_in_one_line(tmp_path, content):
    path = shard(tmp_path / "0.tar", range(3))
    path.write_bytes(path.read_bytes()[:1000] if content == "cut" else content)
    with pytest.raises(ValueError, match=r"0\.tar: (not an uncompressed, whole tar file|is compressed with gzip)"):
        read(path)


@pytest.mark.parametrize("name", STRANGE_NAMES)
def test_a_folder_of_any_name_is_a_folder(tmp_path, name, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    where = Path(name)
    shard(where / "s" / "train-0.tar", range(5))
    assert tar_files(where / "s") == tar_files(where / "s" / "train-0.tar") == [where / "s" / "train-0.tar"]
    source = sources.read("webdataset", f"./{name}/s")
    prepare_dataset(source, where / "out", kind="webdataset", path=name, options=PrepareOptions(side=8), workers=1)
    dataset = PreparedDataset.open(where / "out")
    assert dataset.is_local("train")
    assert len(CaptionedImages(dataset, "train")) == 5
    streamed = ShardBatches(dataset, "train", (2, 3), side=8, colours=3, batch_size=2)
    assert streamed.at(0).images.shape == (2, 3, 8, 8)
    assert check_path(str(where / "out"), workers=1).problems == []
    link = tmp_path / "linked"
    link.symlink_to((where / "out").absolute())
    assert len(CaptionedImages(PreparedDataset.open(link), "train")) == 5


def test_a_path_is_a_url_only_with_a_protocol():
    assert [is_url(text) for text in ("s3://a", "hf://datasets/a", "zip://a::https://b", "memory://a")] == [True] * 4
    assert [is_url(text) for text in ("a", "/a://b", "a::b", "s3:/a", "C:\\a", "c://a", "./s3://a")] == [False] * 7
    assert join_url("https://host/a/", "b c#1.tar") == "https://host/a/b%20c%231.tar"
    assert join_url("s3://host/a/", "b c#1.tar") == "s3://host/a/b c#1.tar"
    assert join_url("a b", "c#") == "a b/c#"


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"file": "/etc/train-0.parquet"}, "a file below the dataset's folder is needed"),
        ({"file": "../train-0.parquet"}, "a file below the dataset's folder is needed"),
        ({"file": "data/../../train-0.parquet"}, "a file below the dataset's folder is needed"),
        ({"file": "..\\train-0.parquet/train-0.parquet"}, "a file below the dataset's folder is needed"),
        ({"file": "C:/train-0.parquet"}, "a file below the dataset's folder is needed"),
        ({"file": "https://host/train-0.parquet"}, "URLs are followed only if the dataset itself is given as a URL: file:///"),
        ({"file": "zip://train-0.tar::https://host/train-0.tar"}, "a chain of URLs is not followed"),
        ({"rows": -1}, "greater than or equal to 0, got -1"),
        ({"rows": 10**12}, "less than or equal to 1000000000"),
        ({"rows": "5"}, "valid integer, got '5'"),
        ({"rows": 1.5}, "valid integer, got 1.5"),
        ({"rows": True}, "valid integer, got True"),
        ({"file": 3}, "valid string, got 3"),
        ({"sha256": {"a": 1}}, "valid string"),
    ],
)
def test_manifests_never_leave_their_folder(tmp_path, entry, message):
    folder = prepared_dataset(tmp_path / "prepared")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["shards"][0] |= entry
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=message) as caught:
        PreparedDataset.open(folder)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=message):
        check_path(str(folder), workers=1)


def test_a_manifest_on_another_machine_names_no_local_file(tmp_path):
    import fsspec

    folder = prepared_dataset(tmp_path / "prepared")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["shards"][0]["file"] = "file:///etc/train-0.tar"
    memory = fsspec.filesystem("memory")
    memory.pipe("/elsewhere/manifest.json", json.dumps(manifest).encode())
    with pytest.raises(ValueError, match=r"its manifest names file:///etc/train-0\.tar, a file of this machine"):
        PreparedDataset.open("memory://elsewhere")


NO_STATE = ("", "[]", "{", "[" * 100_000, '{"fingerprint": 1}', '{"fingerprint": "x", "shards": [{"file": "../a"}]}')


@pytest.mark.parametrize("content", NO_STATE)
@pytest.mark.parametrize("name", ["preparing.json", "manifest.json"])
def test_a_damaged_state_ends_in_one_line(tmp_path, name, content):
    sources.pairs(tmp_path / "pairs", 2)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text(content)
    source = sources.read("pairs", tmp_path / "pairs")
    with pytest.raises(ValueError, match=rf"{name}: .*; prepare into another folder") as caught:
        prepare_dataset(source, tmp_path / "out", kind="pairs", path="pairs", workers=1, resume=True)
    assert "\n" not in str(caught.value)


class Ones:
    """A sentence encoder whose vectors are ones."""

    name, features, sha256 = "an encoder", 4, "0"

    def encode(self, captions):
        import torch

        return torch.ones(len(captions), 4)


def test_sentence_vectors_are_whole_or_absent(tmp_path, monkeypatch):
    folder = shutil.copytree(prepared_dataset(tmp_path / "prepared"), tmp_path / "copy")
    dataset = PreparedDataset.open(folder)
    captions = [f"caption {n}" for n in range(250)]
    vectors = load_sentence_vectors(dataset, "train", captions, Ones())
    assert (vectors.shape, vectors.dtype, float(vectors.min())) == ((250, 4), "float16", 1.0)
    shutil.rmtree(folder / "sentence-vectors")
    real_open = Path.open

    def full(self, mode="r", *arguments, **more):
        file = real_open(self, mode, *arguments, **more)
        return real_open(Path("/dev/full"), "wb") if mode == "wb" and self.name.endswith(".draft") else file

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(OSError, match=r"cannot write \(No space left on device\)") as caught:
        load_sentence_vectors(dataset, "train", captions, Ones())
    assert "sentence-vectors/train-" in caught.value.filename
    assert list((folder / "sentence-vectors").iterdir()) == []


def test_ignored_fields_of_a_sample_are_listed(tmp_path):
    extra = {
        "a.jpg": stored(sources.picture(1), "JPEG"),
        "a.png": stored(sources.picture(2), "PNG"),
        "a.mask.png": stored(sources.picture(3), "PNG"),
        "a.txt": b"a dog",
        "a.long.txt": b"a large dog",
        "b.jpg": stored(sources.picture(4), "JPEG"),
        "b.json": b'{"caption": "a cat"}',
        "b.txt": b"another cat",
    }
    source = read(shard(tmp_path / "a.tar", range(1), extra))
    assert [record.captions for record in source.splits["train"]] == [("picture 0",), ("a dog",), ("a cat",)]
    assert {(problem.kind, problem.file.removeprefix(str(tmp_path))) for problem in source.problems} == {
        ("image without captions", "/a.tar:a.png"),
        ("file not used", "/a.tar:a.mask.png"),
        ("file not used", "/a.tar:a.long.txt"),
        ("file not used", "/a.tar: image b"),
    }


def test_equal_captions_in_text_and_json_are_no_problem(tmp_path):
    assert read(shard(tmp_path / "a.tar", range(2), {"00000.txt": b"picture 0", "00001.caption": b"picture 1\r\n"})).problems == []


@pytest.mark.parametrize(
    ("member", "data"),
    [
        ("a.caption", b"a dog"),
        ("a.json", b'{"captions": [{"raw": "a dog"}]}'),
        ("a.json", b'{"sentences": ["a dog"]}'),
        ("a.json", b'{"sentence": {"text": "a dog"}}'),
    ],
)
def test_usual_names_of_captions_in_samples(tmp_path, member, data):
    source = read(shard(tmp_path / "a.tar", range(0), {"a.png": stored(sources.picture(1), "PNG"), member: data}))
    assert source.splits["train"][0].captions == ("a dog",)


def test_samples_that_begin_with_underscores_are_read(tmp_path):
    source = read(shard(tmp_path / "a.tar", range(0), {"__cat__.png": stored(sources.picture(1), "PNG"), "__cat__.txt": b"a cat"}))
    assert [record.id for record in source.splits["train"]] == ["a/__cat__"]


def test_compressed_and_linked_shards_of_a_folder(tmp_path):
    shard(tmp_path / "elsewhere" / "b.TAR", range(1))
    shard(tmp_path / "shards" / "a.tar", range(1))
    (tmp_path / "shards" / "linked").symlink_to(tmp_path / "elsewhere")
    for name in ("c.tar.gz", "d.tgz"):
        (tmp_path / "shards" / name).write_bytes(b"x")
    source = read(tmp_path / "shards")
    assert [record.id for record in source.splits["train"]] == ["a/00000", "linked/b/00000"]
    assert [(problem.kind, Path(problem.file).name) for problem in source.problems] == [
        ("unreadable file", "c.tar.gz"),
        ("unreadable file", "d.tgz"),
    ]


@pytest.mark.parametrize(("mode", "name"), [("w:gz", "gzip"), ("w:bz2", "bzip2"), ("w:xz", "xz")])
def test_compressed_shards_are_named_as_such(tmp_path, mode, name):
    with tarfile.open(tmp_path / "a.tar", mode) as archive:
        archive.addfile(tarfile.TarInfo("a.txt"))
    with pytest.raises(ValueError, match=f"a.tar: is compressed with {name}; unpack it"):
        read(tmp_path / "a.tar")
