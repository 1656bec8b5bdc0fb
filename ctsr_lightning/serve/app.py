"""The web side of `ctsr serve`: one page, and what its script fetches, on Gradio's server and in its queue.

The page is ours alone, in place of Gradio's, which fetches fonts: it loads nothing from elsewhere. Photos come as bytes
and stay in memory; Gradio's upload, file and proxy routes are closed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from html import escape
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal, cast
from urllib.parse import quote

from gradio import Server
from starlette.concurrency import run_in_threadpool
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response

from ctsr_lightning.figures.viewer import viewer_page
from ctsr_lightning.inference.settings import Color
from ctsr_lightning.serve.card import card_html, examples
from ctsr_lightning.serve.painted import LONGEST_MAP, Painted, automatic_cells
from ctsr_lightning.serve.photos import GoneError
from ctsr_lightning.serve.studio import Part, Studio, TooLargeError

OPEN: Final = ("/photos", "/examples/", "/gradio_api/call/restore", "/gradio_api/startup-events")
"""Beginnings of the paths that are served beside the page itself."""
LARGEST_MAP: Final = 2 * LONGEST_MAP**2
"""Bytes of the largest painted map."""
EXPECTED: Final = (ValueError, OSError, GoneError, RuntimeError, MemoryError)
"""What goes wrong with photos; a RuntimeError that is not about memory is raised again."""
HEADERS: Final = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""No browser keeps photos, and no other page shows them."""


class Closed:
    """Lets requests through to what the page needs, and answers all others with 404.

    Args:
        app: The application, as in ASGI.
    """

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve a request, as in ASGI."""
        path = scope.get("path", "")
        if scope["type"] == "http" and path != "/" and not path.startswith(OPEN):
            await PlainTextResponse("Not found", 404)(scope, receive, send)
        else:
            await self.app(scope, receive, send)


def page(studio: Studio, title: str) -> str:
    """The page.

    Args:
        studio: What it works with.
        title: Its heading.
    """
    parts = {
        suffix: Path(__file__).with_name(f"page{suffix}").read_text("utf-8") for suffix in (".html", ".css", ".js")
    }
    above, _, below = parts[".html"].partition("<!-- viewer -->\n")
    names = list(examples())
    buttons = "\n".join(
        f'<button type="button" data-example="{escape(name)}">{escape(name)}</button>' for name in names
    )
    data = {
        "maxBytes": studio.max_bytes, "slider": studio.restorer.controllable, "paintable": studio.paintable,
        "color": studio.restorer.color,
    }  # fmt: skip
    limits = f"up to {studio.max_bytes / 1e6:g} MB and {studio.max_pixels / 1e6:g} million pixels"
    above = (
        above.replace("$limits", escape(limits))
        .replace("$examples", buttons)
        .replace("$none", "" if names else "hidden")
    )
    below = below.replace("$card", card_html(studio.restorer))
    return viewer_page(
        title, data, above=above, below=below, style=parts[".css"], script=parts[".js"], connect="'self'"
    )


class Routes:
    """What the page fetches.

    Args:
        studio: What the page works with.
        html: The page.
    """

    def __init__(self, studio: Studio, html: str) -> None:
        self.studio, self.html, self.examples = studio, html, examples()

    async def page(self) -> Response:
        """The page itself, never inside another."""
        return HTMLResponse(self.html, headers={**HEADERS, "X-Frame-Options": "DENY"})

    async def example(self, name: str) -> Response:
        """A photo to try, as a file."""
        found = self.examples.get(name)
        return Response(found, 404 if found is None else 200, media_type="image/jpeg", headers=HEADERS)

    async def take(self, request: Request) -> Response:
        """Take a photo, sent as the bytes of its file."""

        def work(sent: bytes) -> Response:
            words = request.query_params
            key = self.studio.take(sent, words.get("name", "photo"), cast("Part", words.get("part", "")))
            return JSONResponse(self.studio.describe(key), headers=HEADERS)

        return await answered(request, self.studio.max_bytes, work)

    async def enlarged(self, key: str, request: Request) -> Response:
        """The input enlarged."""
        return await answered(request, 0, lambda _: picture(self.studio.enlarged(key)))

    async def automatic(self, key: str, request: Request) -> Response:
        """The automatic map of a photo, one byte a cell."""

        def work(_: bytes) -> Response:
            across, down = (int(request.query_params.get(name, 0)) for name in ("across", "down"))
            cells = automatic_cells(self.studio.store.get(key).photo, across, down)
            return Response(cells, media_type="application/octet-stream", headers=HEADERS)

        return await answered(request, 0, work)

    async def image(self, key: str, request: Request) -> Response:
        """A restoration as it is shown; the bytes of a painted map are sent for it, if there is one."""

        def work(sent: bytes) -> Response:
            file, seconds = self.studio.image(key, *settings(request, sent))
            return picture(file, {"X-Seconds": f"{seconds:.4f}"})

        return await answered(request, LARGEST_MAP, work)

    async def file(self, key: str, request: Request) -> Response:
        """A restoration as a file to keep; sent as for `image`."""

        def work(sent: bytes) -> Response:
            suffix = cast("Literal['png', 'jpg']", request.query_params.get("format", "png"))
            name, result, notes = self.studio.file(key, suffix, *settings(request, sent))
            return picture(result, {"X-Name": quote(name), "X-Notes": quote("; ".join(notes))})

        return await answered(request, LARGEST_MAP, work)

    async def drop(self, key: str) -> Response:
        """Forget a photo."""
        self.studio.store.drop(key)
        return Response(status_code=204)

    def restore(self, key: str, color: str) -> Iterator[dict[str, Any]]:
        """Restore a photo, in turn with others; progress as it comes."""
        try:
            yield from self.studio.restore(key, cast("Color", color))
        except EXPECTED as error:
            yield {"error": explained(error)[1]}


async def answered(request: Request, limit: int, work: Callable[[bytes], Response]) -> Response:
    """Read what was sent, and work on it in a thread; what goes wrong is a sentence of JSON.

    Args:
        request: The request.
        limit: Bytes that are read.
        work: Makes the answer of what was sent.
    """
    told, parts, taken = int(request.headers.get("content-length") or 0), list[bytes](), 0
    if told <= limit:
        async for part in request.stream():
            taken += len(part)
            if taken > limit:
                break
            parts.append(part)
    if max(told, taken) > limit:
        text = f"Expected a file of at most {limit / 1e6:g} MB, found a larger one. Make it smaller."
        return JSONResponse({"error": text}, 413, headers={**HEADERS, "Connection": "close"})
    try:
        return await run_in_threadpool(work, b"".join(parts))
    except EXPECTED as error:
        status, text = explained(error)
        told_apart = {"error": text, "choice": isinstance(error, TooLargeError)}
        return JSONResponse(told_apart, status, headers=HEADERS)


def settings(request: Request, sent: bytes) -> tuple[float, Color, Painted | None]:
    """t, the correction of colours and the painted map of a request.

    Args:
        request: The request.
        sent: The map's bytes; none where nothing was painted.
    """
    words = request.query_params
    painted = Painted(int(words.get("across", 0)), int(words.get("down", 0)), sent) if sent else None
    return float(words.get("t", 0)), cast("Color", words.get("color", "none")), painted


def picture(file: bytes, headers: Mapping[str, str] = MappingProxyType({})) -> Response:
    """An image file as a response.

    Args:
        file: PNG or JPEG.
        headers: Further headers.
    """
    kind = "image/png" if file.startswith(b"\x89PNG") else "image/jpeg"
    return Response(file, media_type=kind, headers={**HEADERS, **headers})


def build(studio: Studio, title: str, hosts: list[str] | None = None) -> Server:
    """Gradio's server with the page and its routes.

    Args:
        studio: What it works with.
        title: The page's heading.
        hosts: Names that the server may be called by; None for any.
    """
    server, routes = Server(docs_url=None, redoc_url=None, openapi_url=None), Routes(studio, page(studio, title))
    server.add_middleware(Closed)
    if hosts is not None:
        server.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts)
    for method, path, answer in (
        ("GET", "/", routes.page),
        ("GET", "/examples/{name}", routes.example),
        ("POST", "/photos", routes.take),
        ("GET", "/photos/{key}/input", routes.enlarged),
        ("GET", "/photos/{key}/map", routes.automatic),
        ("POST", "/photos/{key}/image", routes.image),
        ("POST", "/photos/{key}/file", routes.file),
        ("POST", "/photos/{key}/drop", routes.drop),
    ):
        server.add_api_route(path, answer, methods=[method], response_model=None)
    server.api(routes.restore, name="restore", concurrency_limit=1)
    return server


def explained(error: BaseException) -> tuple[int, str]:
    """Status and sentence for what went wrong with a photo.

    Args:
        error: What was raised.
    """
    if isinstance(error, GoneError):
        return 410, str(error)
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "memory" in str(error)):
        return 507, "There is not enough memory for this photo here. Take a smaller one, or a smaller `--tile`."
    if isinstance(error, RuntimeError):
        raise error
    return 413 if isinstance(error, TooLargeError) else 422, str(error)
