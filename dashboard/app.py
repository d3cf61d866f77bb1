"""The whole service as one ASGI app: worker protocol, control verbs, results, pages, live stream.

SWEEPER_HOME=.sweeper uvicorn dashboard.app:create_app --factory
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from fastapi import APIRouter, FastAPI
from fastapi.middleware.gzip import GZipMiddleware

from dashboard import assets, live
from dashboard.guard import SameSiteGuard
from dashboard.routes import errors, figures, pages, scaling, stream
from sweeper import api_results
from sweeper.settings import Settings

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


def create_app() -> FastAPI:
    """The app of this installation, configured by the environment (see sweeper.settings)."""
    from sweeper import api  # the service brings Optuna: not for those who only want `assemble`

    settings = Settings.from_environment()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with api.running_service(app, settings):
            app.state.cache = settings.home / "cache"
            with live.closing_on_signal():
                yield

    return assemble(lifespan, api.router)


def assemble(lifespan: Lifespan, *routers: APIRouter) -> FastAPI:
    """Results and pages over a service: `lifespan` sets `app.state.engine`, `routers` hold its own API."""
    app = FastAPI(title="sweeper", lifespan=lifespan, docs_url=None, redoc_url=None)
    for router in (*routers, api_results.router, pages.router, figures.router, scaling.router, stream.router):
        app.include_router(router)
    app.mount(f"/static/{assets.static_version()}", assets.static_files(), name="static")
    app.add_middleware(GZipMiddleware, minimum_size=800, compresslevel=5)
    app.add_middleware(SameSiteGuard)
    errors.install(app)
    return app
