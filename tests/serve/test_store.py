"""Stores: links work, nothing else is reachable, and a failing store ends single requests."""

from __future__ import annotations

import base64
import errno
import hashlib
import os
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import anyio
import pytest
from fastapi.testclient import TestClient
from moto.server import ThreadedMotoServer
from s3fs import S3FileSystem

from cap2im.serve.app import create_app
from cap2im.serve.settings import ServeSettings
from cap2im.serve.store import AT_ONCE, FILES, MARK, Files, Store, StoreError

PICTURE = b"\x89PNG\r\n\x1a\n and more"
NAME = f"{hashlib.sha256(PICTURE).hexdigest()}.png"


def run(function, *arguments):
    return anyio.run(function, *arguments)


def keep(store: Store, content: bytes = PICTURE, kind: str = "png") -> str:
    """Store a file and return its link."""
    files = Files(store)
    link = files.add(content, kind)["url"]
    anyio.run(files.keep)
    return link


def named(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.is_file()} - {MARK}


def failing(monkeypatch, store: Store, error: BaseException | None = None, seconds: float = 0) -> None:
    """Make the store's file system write a part of each file and then fail or sleep."""

    def pipe_file(path, content, **_):
        if error is not None:
            Path(path).write_bytes(content[:3])
            raise error
        time.sleep(seconds)

    monkeypatch.setattr(store.files, "pipe_file", pipe_file)


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_stored_files_are_read_by_the_name_in_their_link(tmp_path, scheme):
    store = Store.open(f"{scheme}{tmp_path}/deep/pictures/")
    link = keep(store)
    assert link == f"{FILES}/{NAME}"
    assert (tmp_path / "deep/pictures" / NAME).read_bytes() == PICTURE
    assert run(store.read, NAME) == (PICTURE, "image/png")
    assert run(store.read, keep(store, b"<html>", "html").rsplit("/", 1)[1]) == (b"<html>", "text/html; charset=utf-8")


def test_redrawing_refreshes_the_stored_file(tmp_path):
    store = Store.open(str(tmp_path))
    first = keep(store)
    os.utime(tmp_path / NAME, (1, 1))
    assert keep(store) == first
    assert named(tmp_path) == {NAME}
    assert (tmp_path / NAME).stat().st_mtime > 1_000_000_000, "what deletes old files would delete one that was just linked to"


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../secret", "/etc/passwd", "secret", MARK, f"../{NAME}", f"{NAME}\n", f"{NAME}/", NAME.upper(), f"{NAME}.png", "\0",
     NAME.replace(".png", ".txt"), f"s3://{NAME}", "%2e%2e%2fsecret"],
)  # fmt: skip
def test_no_name_reaches_another_file(tmp_path, name):
    store = Store.open(str(tmp_path / "store"))
    (tmp_path / "secret").write_text("secret")
    (tmp_path / NAME).write_bytes(b"outside")
    (tmp_path / "store" / "secret").write_text("secret")
    assert run(store.read, name) is None
    assert run(store.read, NAME) is None


def test_a_link_planted_in_the_folder_leads_nowhere(tmp_path):
    store = Store.open(str(tmp_path / "store"))
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "store" / NAME).symlink_to(tmp_path / "secret")
    assert run(store.read, NAME) is None
    keep(store)
    assert run(store.read, NAME) == (PICTURE, "image/png"), "a picture takes its place"
    assert (tmp_path / "secret").read_text() == "secret"


def test_a_public_address_comes_before_the_name(tmp_path):
    store = Store.open(str(tmp_path), public="https://pictures.example.org/birds/")
    assert keep(store) == f"https://pictures.example.org/birds/{NAME}"


def test_a_full_disk_is_507_and_leaves_nothing_behind(tmp_path, monkeypatch):
    store = Store.open(str(tmp_path))
    with monkeypatch.context() as full:
        failing(full, store, OSError(errno.ENOSPC, "No space left on device", str(tmp_path)))
        with pytest.raises(StoreError) as told:
            keep(store)
    assert (told.value.status, told.value.detail) == (507, "the picture was drawn, but its store is full")
    assert named(tmp_path) == set()
    keep(store)
    assert named(tmp_path) == {NAME}


@pytest.mark.parametrize("error", [PermissionError(errno.EACCES, "no"), FileNotFoundError("gone"), RuntimeError("EndpointConnectionError")])
def test_other_store_failures_are_503_without_internals(tmp_path, monkeypatch, error):
    store = Store.open(str(tmp_path))
    failing(monkeypatch, store, error)
    with pytest.raises(StoreError) as told:
        keep(store)
    assert (told.value.status, told.value.detail) == (503, "the picture was drawn, but its store cannot be reached; try again later")
    assert named(tmp_path) == set()


def test_a_folder_that_was_deleted_under_the_server_is_503(tmp_path):
    store = Store.open(str(tmp_path / "store"))
    (tmp_path / "store" / MARK).unlink()
    (tmp_path / "store").rmdir()
    with pytest.raises(StoreError) as told:
        keep(store)
    assert told.value.status == 503
    assert run(store.read, NAME) is None


def test_hanging_store_times_out_for_all_requests(tmp_path, monkeypatch):
    store = Store.open(str(tmp_path), timeout_s=0.2)
    release, statuses, written = threading.Event(), [], []

    def hang(_self, path, *_arguments, **_options) -> None:
        release.wait(30)
        written.append(path)

    monkeypatch.setattr(type(store.files), "pipe_file", hang)

    async def one() -> None:
        with pytest.raises(StoreError) as error:
            await store.keep(NAME, PICTURE)
        statuses.append(error.value.status)

    async def many() -> None:
        async with anyio.create_task_group() as tasks:
            for _ in range(3 * AT_ONCE):
                tasks.start_soon(one)
        assert not written, "nobody waited for the store"
        release.set()

    run(many)
    assert statuses == [503] * 3 * AT_ONCE


def test_many_writers_of_the_same_picture_all_succeed(tmp_path):
    store = Store.open(str(tmp_path))

    async def many() -> None:
        async with anyio.create_task_group() as tasks:
            for _ in range(100):
                tasks.start_soon(store.keep, NAME, PICTURE)

    run(many)
    assert named(tmp_path) == {NAME}
    assert (tmp_path / NAME).read_bytes() == PICTURE


def test_files_of_a_response_are_stored_before_it_is_sent(tmp_path):
    store = Store.open(str(tmp_path))
    files = Files(store)
    links = [files.add(b"%d" % n, "png")["url"] for n in range(40)]
    assert named(tmp_path) == set()
    run(files.keep)
    assert {link.rsplit("/", 1)[1] for link in links} == named(tmp_path)


def test_without_a_store_files_are_inline():
    files = Files(None)
    assert files.add(b"abc", "gif") == {"media_type": "image/gif", "base64": "YWJj"}
    run(files.keep)


def test_unusable_store_is_one_line(tmp_path):
    (tmp_path / "file").write_text("no folder")
    for url, said in [
        ("nowhere://bucket", "Protocol not known"),
        (f"{tmp_path}/file", "cannot be written: part of its path is a file"),
        ("/proc/no/such", "cannot be written"),
    ]:
        with pytest.raises(ValueError, match=said) as told:
            Store.open(url)
        assert "\n" not in str(told.value)


@pytest.fixture
def bucket(monkeypatch):
    """An S3 server on loopback with a bucket, set in the environment."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    S3FileSystem.clear_instance_cache()  # one of another test would go to its server
    host, port = server.get_host_and_port()
    told = {"ACCESS_KEY_ID": "key", "SECRET_ACCESS_KEY": "secret", "DEFAULT_REGION": "us-east-1", "MAX_ATTEMPTS": "1"}
    for name, value in {**told, "ENDPOINT_URL_S3": f"http://{host}:{port}"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    request = urllib.request.Request(f"http://{host}:{port}/pictures", method="PUT")
    urllib.request.urlopen(request).close()
    yield server
    server.stop()


def test_bucket_stores_pictures_and_signs_links(bucket):
    store = Store.open("s3://pictures/of/birds", link_s=600)
    link = keep(store)
    assert urlsplit(link).path == f"/pictures/of/birds/{NAME}"
    assert "Signature=" in link
    with urllib.request.urlopen(link) as answer:
        assert (answer.read(), answer.headers["Content-Type"]) == (PICTURE, "image/png")
    assert run(store.read, NAME) == (PICTURE, "image/png")
    assert run(store.read, NAME.replace(NAME[:8], "00000000")) is None
    open_to_all = Store.open("s3://pictures/of/birds", public="https://pictures.example.org")
    assert keep(open_to_all) == f"https://pictures.example.org/{NAME}"
    with pytest.raises(ValueError, match=r"store 's3://missing' cannot be written: The specified bucket does not exist"):
        Store.open("s3://missing")


def test_a_bucket_that_went_away_is_503(bucket):
    store = Store.open("s3://pictures")
    bucket.stop()
    with pytest.raises(StoreError) as told:
        keep(store)
    assert (told.value.status, told.value.detail) == (503, "the picture was drawn, but its store cannot be reached; try again later")


# Over HTTP

CAPTION = "a frog on a pink background"


@pytest.fixture
def asked(tmp_path):
    """A function that starts a server with a folder as store."""
    clients = []

    def start(**settings) -> TestClient:
        app = create_app(ServeSettings(**{"store": str(tmp_path / "store"), **settings}))
        clients.append(TestClient(app, "http://localhost").__enter__())
        assert clients[-1].get("/readyz").status_code == 200
        return clients[-1]

    yield start
    for client in clients:
        client.__exit__(None, None, None)


@pytest.mark.parametrize(("form", "kind"), [("png", "png"), ("gif", "gif"), ("html", "png")])
def test_links_return_the_inline_content(asked, form, kind):
    wanted = {"captions": [CAPTION], "samples": 2, "format": form, "steps": True}
    linked, inline = (client.post("/v1/draw", json=wanted) for client in (asked(), asked(store=None)))
    assert linked.status_code == inline.status_code == 200
    ours, theirs = (answer.json()["results"][0] for answer in (linked, inline))
    both = list(zip(ours["drawings"], theirs["drawings"], strict=True))
    pairs = [(a["image"], b["image"]) for a, b in both] + [(a["steps"]["canvases"], b["steps"]["canvases"]) for a, b in both]
    pairs += [(ours["page"], theirs["page"])] if form == "html" else []
    assert ours["drawings"][0]["image"]["url"].endswith(f".{kind}")
    client = asked()
    for link, file in pairs:
        assert set(link) == {"media_type", "url"}
        answer = client.get(link["url"])
        assert answer.status_code == 200
        assert answer.headers["Content-Type"] == link["media_type"] == file["media_type"]
        assert answer.content == base64.b64decode(file["base64"])
        assert "immutable" in answer.headers["Cache-Control"]
        assert answer.headers["Content-Security-Policy"].startswith("sandbox "), "a page can do nothing in the server's name"


def test_no_address_reads_another_file(asked, tmp_path):
    client = asked()
    (tmp_path / "secret").write_text("secret")
    for path in ("..%2fsecret", "%2e%2e/secret", "../secret", MARK, "%00", f"{NAME}%0a", f"..%2f{NAME}", NAME):
        answer = client.get(f"{FILES}/{path}")
        assert answer.status_code == 404, path
        assert set(answer.json()) == {"detail"}


def test_path_like_captions_stay_inside_the_store(asked, tmp_path):
    client = asked()
    for caption in ("../../frog", "/etc/frog", "frog\0", "..\\frog", "s3://bucket/frog", "z" * 900 + " frog"):
        answer = client.post("/v1/draw", json={"captions": [caption], "unknown": "skip"})
        assert answer.status_code == 200, answer.text
    assert {path.parent for path in tmp_path.rglob("*.png")} == {tmp_path / "store"}
    assert all(len(path.stem) == 64 for path in tmp_path.rglob("*.png"))


def test_store_failure_is_one_response_and_the_server_goes_on(asked, monkeypatch):
    client = asked(store_timeout_s=0.3)
    store, wanted = client.app.state.store, {"captions": [CAPTION]}
    for error, status in ((OSError(errno.ENOSPC, "full"), 507), (OSError(errno.EIO, "broken"), 503)):
        with monkeypatch.context() as now:
            failing(now, store, error)
            for path, body in (("/v1/draw", wanted), ("/api/v1.0/bird", {"caption": CAPTION})):
                answer = client.post(path, json=body)
                assert answer.status_code == status
                assert answer.json()["detail"].startswith("the picture was drawn, but its store ")
                assert ("Retry-After" in answer.headers) == (status == 503)
    assert client.post("/v1/draw", json=wanted).status_code == 200
    assert client.app.state.engine.queued == 0


def test_a_store_that_hangs_holds_the_places_of_its_request(asked, monkeypatch):
    client = asked(store_timeout_s=1, queue=1)
    failing(monkeypatch, client.app.state.store, seconds=2)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(client.post, "/v1/draw", json={"captions": [CAPTION]})
        while "cap2im_pictures_total{" not in client.get("/metrics").text:
            time.sleep(0.02)
        assert "queue is full" in client.post("/v1/draw", json={"captions": [CAPTION]}).text, "or else answers would pile up"
        assert first.result().status_code == 503
        assert "does not answer" in first.result().json()["detail"]
    assert client.app.state.engine.queued == 0
