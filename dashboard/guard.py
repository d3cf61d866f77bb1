"""Who may act: a page of another site must not be able to press our buttons."""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

FORM_TYPES = ("application/x-www-form-urlencoded", "multipart/form-data", "text/plain")
"""What a form, or a script without the server's consent, can send to another site."""

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")

SECURITY_HEADERS = (
    (
        b"content-security-policy",
        b"default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
        b"frame-ancestors 'none'; form-action 'none'; base-uri 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
)
"""Nothing is loaded from, or sent to, any other address; Plotly writes its styles inline."""


class SameSiteGuard:
    """Refuses changes that a browser sends for another site, and form bodies from anyone.

    Browsers name the asking site in Sec-Fetch-Site or, older ones, in Origin; clients that are no browser
    send neither and are let through: this guards against borrowed browsers, not against the network.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refusal = None if scope["method"] in SAFE_METHODS else why_refused(Headers(scope=scope))
        if refusal is not None:
            status, detail = refusal
            await JSONResponse({"detail": detail}, status)(scope, receive, send)
            return

        async def send_guarded(message: dict[str, object]) -> None:
            if message["type"] == "http.response.start":
                headers = message.get("headers")
                message = {**message, "headers": [*(headers if isinstance(headers, list) else []), *SECURITY_HEADERS]}
            await send(message)

        await self._app(scope, receive, send_guarded)  # type: ignore[arg-type]


def why_refused(headers: Headers) -> tuple[int, str] | None:
    """Status and reason, or None for a request that may change things."""
    content_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type in FORM_TYPES:
        return 415, f"expected a JSON body (content-type application/json), got {content_type}"
    site = headers.get("sec-fetch-site")
    if site is not None and site not in ("same-origin", "none"):
        return 403, f"refused: the request comes from another site (sec-fetch-site {site})"
    origin = headers.get("origin")
    if site is None and origin is not None and urlsplit(origin).netloc != headers.get("host"):
        return 403, f"refused: the request comes from {origin}, not from this dashboard"
    return None
