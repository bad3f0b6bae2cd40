"""The web page: type a caption and watch the drawing.

Its Content-Security-Policy forbids inline scripts and styles and every other origin.
"""

from __future__ import annotations

from importlib import resources

from fastapi import APIRouter, HTTPException, Request, Response

from cap2im.files import sha256
from cap2im.rendering.page import PAGE_FILES, viewer_file

SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",  # glimpses are data URIs
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
MEDIA_TYPES = {"html": "text/html; charset=utf-8", "css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8"}


def page_router() -> APIRouter:
    """Return the routes `GET /`, the page, and `GET /page/NAME`, its files. Files are read once here, so requests open none."""
    files = {name: viewer_file(name) for name in PAGE_FILES}
    files["api.js"] = resources.files("cap2im.serve").joinpath("page", "api.js").read_text(encoding="utf-8")
    router = APIRouter(include_in_schema=False)

    def respond(name: str, request: Request) -> Response:
        content = files[name].encode()
        tag = f'"{sha256(content)[:16]}"'
        headers = {"ETag": tag, "Cache-Control": "no-cache", "Content-Security-Policy": SECURITY_POLICY}  # revalidated by its ETag
        if request.headers.get("If-None-Match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(content, media_type=MEDIA_TYPES[name.rsplit(".", 1)[-1]], headers=headers)

    @router.get("/")
    def page(request: Request) -> Response:
        return respond("index.html", request)

    @router.get("/page/{name}")
    def page_file(name: str, request: Request) -> Response:
        if name not in files:
            raise HTTPException(404, f"the page has no file {name!r}")
        return respond(name, request)

    return router
