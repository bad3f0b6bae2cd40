"""API key, security headers, Host check, and no access to files."""

from __future__ import annotations

import sys

import pytest

from tests.serve.conftest import CAPTION

TRAVERSAL = ["../../../../etc/passwd", "/etc/passwd", "..%2f..%2fetc%2fpasswd", "%2e%2e/%2e%2e/etc/passwd", "....//etc/passwd", "a\x00b"]


def test_who_draws_brings_the_key(serve):
    client = serve(api_key="open-sesame")
    for path in ("/v1/draw", "/v1/draw/stream"):
        missing = client.draw(path=path)
        assert (missing.status, missing.headers["www-authenticate"]) == (401, "Bearer")
        assert missing.detail == "this server requires an API key (Authorization: Bearer KEY)"
        for wrong in ("Bearer open-sesam", "Bearer open-sesame2", "Bearer \xff", "Basic open-sesame", "open-sesame", "Bearer"):
            assert client.ask("POST", path, {"captions": [CAPTION]}, Authorization=wrong).status == 401
        assert client.ask("POST", path, {"captions": [CAPTION]}, Authorization="Bearer open-sesame").status == 200
    for path in ("/healthz", "/readyz", "/metrics", "/v1/models", "/docs", "/openapi.json"):
        assert client.get(path).status == 200


def test_api_key_is_never_disclosed(serve):
    client = serve(api_key="open-sesame")
    for path in ("/metrics", "/v1/models", "/openapi.json"):
        assert b"sesame" not in client.get(path).body


@pytest.mark.parametrize("kind", ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"])
def test_other_sites_cannot_have_a_browser_draw(serve, gate, kind):
    """Browsers send these content types to any server without a preflight request."""
    answer = serve().ask("POST", "/v1/draw", {"captions": [CAPTION]}, Content_Type=kind)
    assert (answer.status, answer.detail) == (422, "expected a JSON object, with the header Content-Type: application/json")
    assert not gate.batches


ELSEWHERE = (
    "evil.example",
    "evil.example:8000",
    "localhost.evil.example",
    "127.0.0.1.evil.example",
    "127.1",
    "0x7f000001",
    "evil-localhost",
)
MALFORMED = ("", "[", "]", ":8000", ".", "localhost/evil.com", "localhost@evil", "evil@localhost", "localhost:evil", "localhost:8000:1",
             "localhost#evil", "localhost?evil",
             "localhost evil", "[localhost]", "[::1", "::1", "[::1]evil", "[127.0.0.1]", "[fe80::1%25lo]")  # fmt: skip
LOCAL = ("localhost", "LOCALHOST:8000", "localhost.", "localhost:", "127.0.0.1:1", "[::1]:8000", "[::1]", "192.168.0.7")


def test_only_local_names_lead_to_a_local_server(serve):
    """A web site can resolve its own name to 127.0.0.1 and read the responses in a visitor's browser (DNS rebinding)."""
    client = serve()
    for hosts, status in ((ELSEWHERE, 421), (MALFORMED, 400), (LOCAL, 200)):
        for host in hosts:
            answer = client.get("/v1/models", Host=host)
            assert (answer.status, answer.headers["x-frame-options"]) == (status, "DENY"), host
    assert client.get("/v1/models", Host=ELSEWHERE[0]).detail == (
        "this server accepts localhost, IP addresses and the names in its setting allowed_hosts"
    )


def test_requests_for_other_hosts_are_refused(serve):
    for host in ("127.0.0.1", "0.0.0.0"):
        client = serve(host=host, allowed_hosts="draw.example.org, box.local")
        assert [client.get("/healthz", Host=name).status for name in ("draw.example.org:80", "Box.Local.", "localhost")] == [200] * 3
        assert [client.get("/healthz", Host=name).status for name in ("example.org", "a.draw.example.org")] == [421] * 2


def test_public_servers_accept_any_host(serve):
    client = serve(host="0.0.0.0")
    assert client.get("/v1/models", Host="draw.example.org").status == 200
    assert client.get("/v1/models", Host="draw.example.org/x").status == 400


@pytest.mark.parametrize("path", ["/healthz", "/v1/models", "/nothing", "/docs", "/openapi.json"])
def test_responses_have_security_headers(serve, path):
    headers = serve().get(path).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["content-security-policy"].startswith("default-src 'self'" if path == "/docs" else "default-src 'none'")
    assert "server" not in headers
    assert "access-control-allow-origin" not in headers


def test_the_documentation_needs_no_other_server(serve):
    client = serve()
    page = client.get("/docs").body.decode()
    assert "http://" not in page
    assert "https://" not in page
    assert client.get("/static-offline-docs/swagger-ui-bundle.js").status == 200


def test_no_request_opens_a_file(serve, monkeypatch):
    """No input in path, Host, headers or captions makes the server open other files than its own."""
    client = serve(captions=16, characters=1000)
    for caption in (CAPTION, "zebra"):  # what is imported late is imported, for unknown words too
        client.draw([caption])
    opened: list[str] = []

    def watch(event: str, arguments: tuple) -> None:
        if listening and event in ("open", "os.listdir", "os.scandir", "os.mkdir", "os.remove", "os.rename"):
            opened.append(f"{event} {arguments[0]}")

    listening = True
    sys.addaudithook(watch)  # cannot be taken away again, only silenced
    try:
        for evil in TRAVERSAL:
            sent = evil.replace("\x00", "%00")
            for path in (f"/{sent}", f"/v1/models/{sent}/words", f"/v1/draw/{sent}", f"/v1/../{sent}"):
                assert client.get(path).status in (400, 404)
            assert client.draw(model=evil).status == 404
            assert client.draw([evil]).status == 422
            assert client.draw([f"{CAPTION} {evil}"], unknown="skip", format="html", steps=True).status == 200
            header = evil.replace("\x00", "")
            for headers in (
                {"Host": header},
                {"X_Forwarded_Host": header},
                {"X_Original_URL": header},
                {"Range": header},
                {"Cookie": header},
            ):
                assert client.get("/v1/models", **headers).status in (200, 400, 421)
    finally:
        listening = False
    assert not [each for each in opened if not each.endswith(("viewer.html", "viewer.css", "viewer.js"))]
    assert len(opened) == 3 * len(TRAVERSAL), "the audit sees the parts of the self-contained page"
