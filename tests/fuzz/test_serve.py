"""Hosts, origins and prefixes that nobody meant: each is refused or means one thing."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cap2im.serve.middleware import host_name
from cap2im.serve.settings import ServeSettings

PARTS = st.sampled_from(
    [
        "localhost",
        "127.0.0.1",
        "evil.example",
        "[::1]",
        "::1",
        "[",
        "]",
        ":",
        "80",
        ".",
        "@",
        "/",
        "\\",
        "#",
        "?",
        "%",
        " ",
        "\0",
        "\n",
        "é",
    ]
)
TEXT = st.one_of(st.text(max_size=30), st.lists(PARTS, max_size=6).map("".join))


@given(TEXT)
@example("localhost/evil.example")
@example("evil.example@localhost")
@example("localhost:80:80")
def test_accepted_hosts_are_hosts_of_urls(host):
    name = host_name(host)
    if name is None:
        return
    assert name == name.lower().strip()
    assert not set(name) & set("/\\@#?% \n\0[]")
    url = urlsplit(f"http://{host}/")
    assert (url.username, url.path, url.query) == (None, "/", "")
    if not host.startswith("["):
        assert name == (url.hostname or "").removesuffix(".")


@given(TEXT)
@example("/draw")
@example("//evil.example")
@example("/draw/..")
def test_a_prefix_is_refused_or_is_a_path(prefix):
    try:
        accepted = ServeSettings.of({"root_path": prefix}).root_path
    except ValueError:
        return
    url = urlsplit(f"{accepted}/docs")
    assert (url.scheme, url.netloc, url.path, url.query) == ("", "", f"{accepted}/docs", "")
    assert ".." not in accepted.split("/")


@given(TEXT.map(lambda text: f"https://{text}"))
@example("https://gallery.example:8443")
def test_an_origin_is_refused_or_has_nothing_after_its_port(origin):
    try:
        (accepted,) = ServeSettings.of({"cors_origins": [origin]}).cors_origins
    except ValueError:
        return
    url = urlsplit(accepted)
    assert (url.path, url.query, url.fragment, url.username) == ("", "", "", None)


def test_origins_of_the_command_line_are_separated_by_commas():
    assert ServeSettings.of({"cors_origins": "https://a.example, http://b:1"}).cors_origins == ("https://a.example", "http://b:1")
    with pytest.raises(ValueError, match="cors_origins"):
        ServeSettings.of({"cors_origins": "https://a.example https://b.example"})
