"""Test training from shards: Parquet and tar, local and remote, several processes, resumed by step."""

from __future__ import annotations

import gzip
import io
import json
import re
import tarfile
from pathlib import Path

import fsspec
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from cap2im.data.captioned_images import CaptionedImages
from cap2im.data.dataset import PreparedDataset
from cap2im.data.shard_batches import ShardBatches
from cap2im.data.shards import read_shard
from cap2im.data.vocabulary import Vocabulary
from tests.prepared import COLOURS, prepared_dataset


def split_into_shards(folder: Path, rows: tuple[int, ...]) -> None:
    """Cuts the one training shard into several, and tells the manifest."""
    manifest = json.loads((folder / "manifest.json").read_text())
    (old,) = (shard for shard in manifest["shards"] if "train-" in shard["file"])
    table, start, entries = pq.read_table(folder / old["file"]), 0, []
    for i, count in enumerate(rows):
        name = f"data/train-{i:05d}-of-{len(rows):05d}.parquet"
        pq.write_table(table.slice(start, count), folder / name)
        entries.append({"file": name, "rows": count})
        start += count
    assert start == old["rows"]
    manifest["shards"] = [*entries, *(shard for shard in manifest["shards"] if "train-" not in shard["file"])]
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.fixture
def folder(tmp_path):
    folder = prepared_dataset(tmp_path / "prepared")
    split_into_shards(folder, (7, 5, 9, 3))
    return folder


def batches(folder, **changes) -> ShardBatches:
    how = {"side": 8, "colours": 3, "batch_size": 4, "seed": 0} | changes
    return ShardBatches(PreparedDataset.open(folder), "train", (2, 3), **how)


def seen(made: ShardBatches, steps, rows=slice(None)) -> list[float]:
    """What tells images apart: the sum of their noise."""
    return [round(image.sum().item(), 4) for step in steps for image in made.at(step, rows).images]


def test_each_image_appears_once_an_epoch_with_its_caption(folder):
    made = batches(folder)
    assert made.steps_per_epoch == 6
    first, second = seen(made, range(6)), seen(made, range(6, 12))
    assert len(set(first)) == 24
    assert first != second
    assert set(first) == set(second)
    captions = set()
    for step in range(12):
        batch = made.at(step)
        for tokens, mask, image in zip(batch.tokens, batch.mask, batch.images, strict=True):
            words = [made.dataset.vocabulary.words[t] for t in tokens[mask]]
            captions.add(" ".join(words))
            assert COLOURS[next(w for w in words if w in COLOURS)] == tuple((image[:, 4, 4] * 255).round().int().tolist())
    assert len(captions) > 10, "not always the first caption"


def test_position_is_the_step(folder):
    one, two = batches(folder), batches(folder)
    for step in range(9):
        one.at(step)
    assert torch.equal(one.at(9).images, two.at(9).images)
    assert torch.equal(one.at(9).tokens, two.at(9).tokens)
    assert torch.equal(one.at(9).noise, two.at(9).noise)
    assert not torch.equal(batches(folder, seed=1).at(9).images, two.at(9).images)


def test_processes_have_different_images(folder):
    made = batches(folder, processes=2)
    assert made.steps_per_epoch == 4, "the two smallest of four shards, in parts of two"
    shares = [seen(made, range(4), slice(i, None, 2)) for i in range(2)]
    assert len(set(shares[0] + shares[1])) == 16
    with pytest.raises(ValueError, match="4 train shards cannot be shared among 5 processes"):
        batches(folder, processes=5)
    with pytest.raises(ValueError, match="no more than 3 train images, which do not fill its share of 16"):
        batches(folder, processes=4, batch_size=16)


def test_images_of_another_size_are_resized(folder):
    assert batches(folder, side=5, colours=1).at(0).images.shape == (4, 1, 5, 5)
    fixed = batches(folder).fixed(10)
    assert fixed.images.shape == (10, 3, 8, 8)
    assert len(batches(folder).fixed(1000)) == 24


def test_a_dataset_elsewhere_is_streamed_without_a_copy(folder):
    memory = fsspec.filesystem("memory")
    for path in folder.rglob("*.*"):
        memory.pipe(f"/bucket/{path.relative_to(folder)}", path.read_bytes())
    here, there = batches(folder), batches("memory://bucket")
    assert torch.equal(here.at(7).images, there.at(7).images)
    with pytest.raises(ValueError, match="tar shards and remote shards need --stream"):
        CaptionedImages(PreparedDataset.open("memory://bucket"), "train")
    with pytest.raises(ValueError, match=r"memory://nothing: not a prepared dataset, it has no manifest\.json"):
        PreparedDataset.open("memory://nothing")


def test_what_cannot_be_read_from_a_url_is_reported():
    with pytest.raises(ValueError, match=r"nosuch://bucket/manifest\.json: cannot be read: Protocol not known"):
        PreparedDataset.open("nosuch://bucket")


def tar_dataset(folder: Path, members: dict[str, bytes], rows: int, **changes) -> None:
    """Makes a tar file the only training shard."""
    manifest = json.loads((folder / "manifest.json").read_text())
    tar(folder / "data" / "train-0.tar", members)
    shards = [{"file": "data/train-0.tar", "rows": rows}]
    (folder / "manifest.json").write_text(json.dumps(manifest | {"shards": shards} | changes))


def test_images_of_any_shape_are_cropped_as_prepared(folder):
    wide = Image.new("RGB", (40, 20), "red")
    wide.paste("blue", (10, 0, 30, 20))  # the central square
    buffer = io.BytesIO()
    wide.save(buffer, "PNG")
    members = {f"{i}.{kind}": data for i in range(4) for kind, data in (("png", buffer.getvalue()), ("txt", b"red ."))}
    tar_dataset(folder, members, 4, fit="shorter")
    images = batches(folder).at(0).images
    assert images[:, 2].min() > 0.9  # bicubic: the edge of the square feels what lies outside
    assert images[:, 0].max() < 0.1


def test_an_image_that_cannot_be_decoded_is_skipped(folder, caplog):
    image = read_shard(str(folder / "data" / "train-00000-of-00004.parquet"))[0].image
    members = {"7.png": b"nothing", "7.txt": b"red .", "8.png": image, "8.txt": b"blue ."}
    tar_dataset(folder, members, 2)
    made = batches(folder, batch_size=1)
    assert len({made.at(step).images.sum().item() for step in range(6)}) == 1
    assert len(made.fixed(5)) == 1
    assert made.fixed_captions(5) == ["blue ."]
    assert caplog.text.count("skipped a sample: ") == 1
    tar_dataset(folder, {"7.png": b"nothing", "7.txt": b"red ."}, 1)
    with pytest.raises(ValueError, match=r"train-0\.tar: none of its images can be decoded; the first: .*image 7"):
        batches(folder, batch_size=1).at(0)


def test_bad_samples_are_skipped_and_counted_once(folder, caplog):
    image = read_shard(str(folder / "data" / "train-00000-of-00004.parquet"))[0].image
    good = {f"{n}.{kind}": data for n in range(8) for kind, data in (("png", image), ("txt", b"red ."))}
    bad = {"90.txt": b"a picture that was not downloaded", "91.png": image, "92.png": image, "92.json": b"{"}
    noise = {"._1.png": b"a resource fork", "__MACOSX/._2.png": b"another", ".hidden/3.jpg": b"x"}
    for rows in (8, 9, 11):  # with or without the bad ones
        tar_dataset(folder, noise | good | bad, rows)
        made, again = batches(folder), batches(folder)
        assert made.steps_per_epoch == rows // 4
        for step in range(5):
            assert len(made.at(step).images) == 4
        assert torch.equal(made.at(4).tokens, again.at(4).tokens)
        assert caplog.text.count("skipped 3 of 11 samples; the first: caption without image: image 90") == 2
        caplog.clear()
    for rows in (7, 12):
        tar_dataset(folder, noise | good | bad, rows)
        with pytest.raises(ValueError, match=f"holds 8 images and 3 that cannot be used; the manifest lists {rows}"):
            batches(folder).at(0)


def test_captions_without_a_known_word_are_never_used(folder):
    image = read_shard(str(folder / "data" / "train-00000-of-00004.parquet"))[0].image
    (folder / "vocabulary.json").write_text(Vocabulary.build(["a red square"], tokens="attngan").model_dump_json())
    tar_dataset(folder, {"1.png": image, "1.json": json.dumps({"captions": ["\u732b", "red"]}).encode()}, 1)
    made = batches(folder, batch_size=1)
    assert all(made.at(step).tokens.tolist() == [[2]] for step in range(5))
    tar_dataset(folder, {"1.png": image, "1.txt": "\u732b".encode()}, 1)
    with pytest.raises(ValueError, match=r"none of its samples can be used; the first: caption without words: .*image 1"):
        batches(folder, batch_size=1).at(0)


def tar(path: Path, members: dict[str, bytes]) -> str:
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return str(path)


def test_tar_shards_hold_images_beside_their_captions(folder, tmp_path):
    image = read_shard(str(folder / "data" / "train-00000-of-00004.parquet"))[0].image
    captions = json.dumps({"captions": ["a red square .", "red ."]}).encode()
    members = {"a/1.png": image, "a/1.json": captions, "a/2.png": image, "a/2.txt": b"a blue square .\n\nblue .\n", "a/2.cls": b"3"}
    one, two = read_shard(tar(tmp_path / "shard.tar", members))
    assert one.captions == ("a red square .", "red .")
    assert two.captions == ("a blue square .", "blue .")
    assert one.image == two.image == image
    single = read_shard(tar(tmp_path / "caption.tar", {"1.jpg": image, "1.json": b'{"caption": "red ."}'}))
    assert single[0].captions == ("red .",)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"1.png": b"x"}, r"image without captions: .*image 1: no \.json, \.txt or \.caption"),
        ({"1.txt": b"red ."}, r"caption without image: .*image 1: its members: \.txt"),
        ({"1.cls": b"3"}, r"unusable entry: .*image 1: neither picture nor captions; its members: \.cls"),
        ({"1.heic": b"x", "1.txt": b"red ."}, r"unreadable image: .*image 1: \.heic images are not read"),
        ({"1.png": b"x", "1.txt": b"\n"}, r"image without captions: .*image 1: 1\.txt is empty"),
        ({"1.png": b"x", "1.txt": b"\xff\xfe\xfd"}, r"image without captions: .*image 1: 1\.txt"),
        ({"1.png": b"x", "1.json": b"{"}, r"image without captions: .*image 1: 1\.json: EOF while parsing"),
        ({"1.png": b"x", "1.json": b"[" * 10_000}, r"image without captions: .*image 1: 1\.json: recursion limit"),
        ({"1.png": b"x", "1.json": b'{"caption": 3}'}, r"image without captions: .*image 1: 1\.json has no text under captions"),
    ],
)
def test_incomplete_samples_are_named(tmp_path, members, message):
    whole = {"0.png": b"x", "0.txt": b"red ."}
    problems = []
    assert [image.captions for image in read_shard(tar(tmp_path / "shard.tar", whole | members), problems)] == [("red .",)]
    assert len(problems) == 1
    assert re.search(message, str(problems[0]))
    with pytest.raises(ValueError, match=rf"shard\.tar: none of its 1 samples can be used; the first: {message}"):
        read_shard(tar(tmp_path / "shard.tar", members))


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ({"a.b/1.v2.jpg": b"x", "a.b/1.v2.txt": b"red ."}, {"a.b/1.v2": ("red .",)}),
        ({"1.l.jpg": b"x", "1.l.txt": b"red .", "1.r.jpg": b"y", "1.r.txt": b"blue ."}, {"1.l": ("red .",), "1.r": ("blue .",)}),
        ({"1.jpg": b"x", "1.txt": b"red .", "1.seg.png": b"y"}, {"1": ("red .",)}),
        ({"1.img.jpg": b"x", "1.txt": b"red ."}, {"1": ("red .",)}),
        ({"../../1.JPG": b"x", "../../1.TXT": b"red ."}, {"../../1": ("red .",)}),
        ({"1.jpg": b"x", "1.json": b"{", "1.txt": b"red ."}, {"1": ("red .",)}),
        ({"1.jpg": b"x", "1.json": b'["red .", {"text": "blue ."}, 3]'}, {"1": ("red .", "blue .")}),
        ({"1.jpg": b"x", "1.json": b'{"captions": [], "caption": "red ."}'}, {"1": ("red .",)}),
        ({"1.jpg": b"x", "1.txt": b"\xef\xbb\xbfred .\r\nblue ."}, {"1": ("red .", "blue .")}),
    ],
)
def test_members_of_one_key_are_a_sample(tmp_path, members, expected):
    images = read_shard(path := tar(tmp_path / "shard.tar", members))
    assert {image.name.removeprefix(f"{path}: image "): image.captions for image in images} == expected


def test_links_inside_of_a_tar_are_followed(tmp_path):
    def link(archive: tarfile.TarFile, name: str, target: str, kind: bytes) -> None:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, target
        archive.addfile(member)

    tar(path := tmp_path / "shard.tar", {"a/1.png": b"x", "a/1.txt": b"red ."})
    with tarfile.open(path, "a") as archive:
        link(archive, "a/2.png", "1.png", tarfile.SYMTYPE)
        link(archive, "a/2.txt", "a/1.txt", tarfile.LNKTYPE)
        link(archive, "a/3.png", "../../etc/passwd", tarfile.SYMTYPE)
        link(archive, "a/3.txt", "/etc/passwd", tarfile.SYMTYPE)
        link(archive, "a/4.png", "4.png", tarfile.SYMTYPE)
        link(archive, "a/4.txt", "a/1.txt", tarfile.LNKTYPE)
    problems = []
    assert [image.image for image in read_shard(str(path), problems)] == [b"x", b"x"]
    assert [problem.kind for problem in problems] == ["unreadable image", "unreadable image"]


def test_a_compressed_tar_is_read_up_to_a_limit(tmp_path, monkeypatch):
    tar(tmp_path / "shard.tar", {"1.png": b"x" * 50_000, "1.txt": b"red ."})
    path = tmp_path / "shard.tar.gz"
    path.write_bytes(gzip.compress((tmp_path / "shard.tar").read_bytes()))
    assert [image.captions for image in read_shard(str(path))] == [("red .",)]
    monkeypatch.setattr("cap2im.data.shards.LARGEST_UNPACKED", 40_000)
    with pytest.raises(ValueError, match=r"shard\.tar\.gz: .*unpacks to more than 40,000 bytes"):
        read_shard(str(path))


def test_damaged_shards_are_refused(folder, tmp_path):
    (tmp_path / "bad.tar").write_bytes(b"nothing like a tar file")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 nothing")
    for name in ("bad.tar", "bad.parquet", "gone.parquet"):
        with pytest.raises(ValueError, match=f"{name}: missing or damaged shard"):
            read_shard(str(tmp_path / name))
    made = batches(folder)
    made._rows[:] = 4
    with pytest.raises(ValueError, match=r"holds \d images; the manifest lists 4"):
        made.at(0)
