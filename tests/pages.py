"""Tabs with the page, served or exported, in a browser."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

TOP = "the digit three is at the top of the digit one"
BOTTOM = "the digit three is at the bottom of the digit one"


@contextmanager
def tabs(browser: Any) -> Iterator[Callable[..., Any]]:
    """Open the page at a URL; motion is reduced unless `moving`, so that pictures are shown at once.

    With `clock`, a test moves the time of the page by `tab.clock`.

    In the end nothing may have been requested from elsewhere, and nothing complained about but the answers that a test `expects`.
    """
    troubles: list[str] = []
    contexts = []

    def opened(
        url: str,
        *,
        moving: bool = False,
        clock: bool = False,
        width: int = 1280,
        height: int = 900,
        scheme: str = "light",
        expects: str = "nothing",
        **more: Any,
    ) -> Any:
        context = browser.new_context(
            viewport={"width": width, "height": height},
            reduced_motion="no-preference" if moving else "reduce",
            color_scheme=scheme,
            accept_downloads=True,
            **more,
        )
        contexts.append(context)
        tab = context.new_page()
        own = (url.partition("#")[0].removesuffix("index.html"), "data:", "blob:")
        tab.on("request", lambda request: None if request.url.startswith(own) else troubles.append(f"requested {request.url}"))
        tab.on("console", lambda message: None if re.search(expects, message.text) else troubles.append(f"console: {message.text}"))
        tab.on("pageerror", lambda error: troubles.append(f"error: {error}"))
        if clock:
            tab.clock.install()
        tab.goto(url)
        wait_until(tab, lambda: tab.locator("#model-choice option").count() > 0 or tab.is_visible("#trouble"))
        return tab

    yield opened
    for context in contexts:
        context.close()
    assert troubles == []


def wait_until(tab: Any, holds: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if holds():
            return
        tab.wait_for_timeout(20)
    pytest.fail(f"waited {seconds:g} seconds in vain; status: {status(tab)!r}, trouble: {tab.text_content('#told')!r}")


def status(tab: Any) -> str:
    return tab.text_content("#status")


def drawn(tab: Any) -> None:
    wait_until(tab, lambda: status(tab).startswith("Drawn in") and not tab.is_visible("#stop"))
