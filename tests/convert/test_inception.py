"""Inception's published weights: read as they were published, fetched once, verified, and never anything else in their place."""

from __future__ import annotations

import errno
import hashlib
import http.server
import re
import threading
from collections import OrderedDict

import pytest
import torch

from cap2im.convert import inception
from cap2im.convert.inception import fetch, find_inception, load_inception
from cap2im.models.inception import Inception


def published(variant: str, **changes: torch.Tensor | None) -> OrderedDict:
    """A state dict in the layout of the published files, small numbers in it."""
    torch.manual_seed(3)
    state = {name: value for name, value in Inception(variant).state_dict().items() if not name.endswith("num_batches_tracked")}
    if variant == "imagenet":
        state |= {"AuxLogits.conv0.conv.weight": torch.zeros(128, 768, 1, 1), "AuxLogits.fc.bias": torch.zeros(1000)}
    return OrderedDict({name: value for name, value in {**state, **changes}.items() if value is not None})


@pytest.mark.parametrize("variant", ["imagenet", "fid"])
def test_published_layouts_are_read(variant, tmp_path):
    state = published(variant)
    torch.save(state, tmp_path / "weights.pth")
    model, digest = load_inception(variant, tmp_path / "weights.pth")
    assert digest == hashlib.sha256((tmp_path / "weights.pth").read_bytes()).hexdigest()
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())
    for name, value in model.state_dict().items():
        assert torch.equal(value, state.get(name, torch.tensor(0))), name
    without, _ = load_inception(variant, tmp_path / "weights.pth", classifies=False)
    assert without.fc is None


def test_refusals(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere.pth: no such file.*inception_v3_google-0cc3c7bd.pth"):
        load_inception("imagenet", tmp_path / "nowhere.pth")
    for name, state in {
        "fid": published("fid"),
        "part": published("imagenet", **{"Mixed_6e.branch1x1.conv.weight": None}),
        "else": {"weight": torch.zeros(3)},
    }.items():
        torch.save(state, tmp_path / f"{name}.pth")
        with pytest.raises(ValueError, match=rf"{name}.pth: not the weights of this Inception-v3"):
            load_inception("imagenet", tmp_path / f"{name}.pth")
    whole = (tmp_path / "part.pth").read_bytes()
    (tmp_path / "truncated.pth").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"truncated.pth: damaged"):
        load_inception("imagenet", tmp_path / "truncated.pth")


@pytest.fixture
def mirror():
    """A server on this machine: what it serves, which part of it was asked for, and its address."""
    served: dict[str, bytes] = {}
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.headers.get("Range", ""))
            if (data := served.get(self.path)) is None:
                self.send_error(404)
                return
            start = int(asked[-1].removeprefix("bytes=").removesuffix("-") or 0)
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(data) - start))
            self.end_headers()
            self.wfile.write(data[start:])

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield served, asked, f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()


DATA = b"some weights"
SHA256 = hashlib.sha256(DATA).hexdigest()
NAME = "weights.pth"


def test_download_is_announced_verified_and_cached(mirror, tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO", "cap2im")
    served, asked, url = mirror
    served[f"/{NAME}"] = DATA
    monkeypatch.setenv("CAP2IM_CACHE", str(tmp_path))
    monkeypatch.setitem(inception.WEIGHT_FILES, "imagenet", inception.WeightFile(f"{url}/{NAME}", SHA256))
    found = find_inception("imagenet")
    assert found.read_bytes() == DATA
    assert f"downloading {url}/{NAME}" in caplog.text
    assert find_inception("imagenet") == found
    assert asked == [""]  # once
    found.write_bytes(b"something else")
    with pytest.raises(ValueError, match=rf"SHA-256 is .*, expected {SHA256}; remove it"):
        find_inception("imagenet")
    found.unlink()
    for known in (SHA256[:8], SHA256[:8] + "0" * 56):
        monkeypatch.setitem(inception.WEIGHT_FILES, "imagenet", inception.WeightFile(f"{url}/{NAME}", known))
        with pytest.raises(ValueError, match=rf"{NAME}: SHA-256 is {SHA256}, expected {known}"):
            find_inception("imagenet")
        assert not found.exists()


def test_weights_are_checked_by_all_64_digits():
    for url, sha256 in inception.WEIGHT_FILES.values():
        assert re.fullmatch("[0-9a-f]{64}", sha256)
        assert url.endswith(f"-{sha256[:8]}.pth"), "their names tell the first eight"


def test_an_interrupted_download_goes_on(mirror, tmp_path):
    served, asked, url = mirror
    served[f"/{NAME}"] = DATA
    (tmp_path / f".{NAME}.part").write_bytes(DATA[:5])
    fetch(f"{url}/{NAME}", tmp_path / NAME, SHA256)
    assert asked == ["bytes=5-"]
    assert [path.name for path in tmp_path.iterdir()] == [NAME]
    assert (tmp_path / NAME).read_bytes() == DATA
    (tmp_path / NAME).rename(tmp_path / f".{NAME}.part")  # as if stopped just before the end
    fetch(f"{url}/{NAME}", tmp_path / NAME, SHA256)
    assert (tmp_path / NAME).read_bytes() == DATA
    assert len(asked) == 1


def test_a_wrong_download_is_refused_and_leaves_nothing(mirror, tmp_path):
    served, _, url = mirror
    served[f"/{NAME}"] = b"something else"
    with pytest.raises(ValueError, match=rf"{NAME}: SHA-256 is .*, expected {SHA256}"):
        fetch(f"{url}/{NAME}", tmp_path / NAME, SHA256)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match=r"cannot download .*/nowhere.pth: .*404.*; give its path, or put the file"):
        fetch(f"{url}/nowhere.pth", tmp_path / "nowhere.pth", SHA256)


def test_full_disk_names_the_file_and_keeps_the_part(mirror, tmp_path, monkeypatch):
    served, _, url = mirror
    served[f"/{NAME}"] = DATA
    part = tmp_path / f".{NAME}.part"
    part.symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as error:
        fetch(f"{url}/{NAME}", tmp_path / NAME, SHA256)
    assert (error.value.errno, error.value.filename) == (errno.ENOSPC, str(part))


def test_a_download_without_end_is_stopped(mirror, tmp_path, monkeypatch):
    served, _, url = mirror
    served[f"/{NAME}"] = DATA
    monkeypatch.setattr(inception, "LARGEST_DOWNLOAD", 3)
    with pytest.raises(ValueError, match=rf"{NAME}: more than 3 bytes"):
        fetch(f"{url}/{NAME}", tmp_path / NAME, SHA256)
    assert not (tmp_path / NAME).exists()
