"""Style sheet, scripts and Plotly: served from here, under addresses that change with the content."""

from __future__ import annotations

import gzip
import hashlib
from functools import cache
from pathlib import Path

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

STATIC = Path(__file__).parent / "static"
PLOTLY = Path(__file__).parent / "vendor" / "plotly-basic.min.js.gz"
FOR_EVER = "public, max-age=31536000, immutable"


@cache
def static_version() -> str:
    """A hash over all static files: one changed script gives all of them new addresses, so that modules
    which import each other never mix versions."""
    digest = hashlib.sha256()
    for path in sorted(STATIC.rglob("*")):
        if path.is_file():
            digest.update(path.relative_to(STATIC).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:12]


@cache
def plotly_script() -> tuple[bytes, str]:
    """Plotly's bundle of lines, points and bars (vendor/README.md), and its hash: the whole of it takes a browser a
    second to read."""
    script = gzip.decompress(plotly_gzipped())
    return script, hashlib.sha256(script).hexdigest()[:12]


@cache
def plotly_gzipped() -> bytes:
    """As it is kept: to compress it for every reader would take too long."""
    return PLOTLY.read_bytes()


def plotly_response(headers: Headers) -> Response:
    """The script as the client accepts it, to be kept for ever."""
    lasting = {"Cache-Control": FOR_EVER, "Vary": "Accept-Encoding"}
    if "gzip" in headers.get("accept-encoding", ""):
        lasting["Content-Encoding"] = "gzip"
        return Response(plotly_gzipped(), media_type="text/javascript", headers=lasting)
    return Response(plotly_script()[0], media_type="text/javascript", headers=lasting)


class LastingFiles(StaticFiles):
    """Static files that browsers may keep for ever: their address holds their version."""

    def file_response(self, *args: object, **kwargs: object) -> Response:
        response = super().file_response(*args, **kwargs)  # type: ignore[arg-type]  # passed on unchanged
        response.headers["Cache-Control"] = FOR_EVER
        return response


def static_files() -> LastingFiles:
    """The app that serves the static folder."""
    return LastingFiles(directory=STATIC)
