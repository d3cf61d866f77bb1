"""Errors as the reader can take them: JSON for scripts, a page for people."""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.exception_handlers import http_exception_handler
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, Response

from dashboard.routes.shared import templates
from sweeper.protocol import API


def install(app: FastAPI) -> None:
    """Give browsers a page where the API gives JSON."""

    @app.exception_handler(HTTPException)
    async def show(request: Request, error: HTTPException) -> Response:
        wants_page = "text/html" in request.headers.get("accept", "")
        if request.url.path.startswith(API) or not wants_page:
            return await http_exception_handler(request, error)
        html = templates.get_template("error.html").render(status=error.status_code, message=str(error.detail))
        return HTMLResponse(html, error.status_code)
