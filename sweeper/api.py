"""The worker protocol and the control verbs over HTTP: thin routes over leases, ingest, control, promote.

Errors are JSON, `{"detail": "message for the user"}`: 404 unknown, 409 conflict, 422 bad input, 503 when the
database is away.  A body with NaN or Infinity is bad input.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Annotated, Any, cast

from anyio import to_thread
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from optuna.exceptions import StorageInternalError
from pydantic import BaseModel, ConfigDict
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from sweeper import confirm, control, handout, ingest, leases, promote
from sweeper.ahead import Drawer
from sweeper.api_results import FitsDep
from sweeper.errors import SweeperError
from sweeper.protocol import (
    API,
    ConfirmationPlan,
    Delivery,
    Done,
    Enqueue,
    Goodbye,
    Hello,
    LeaseAnswer,
    LeaseRequest,
    PromoteRequest,
    PromotionPlan,
    Receipt,
    Welcome,
)
from sweeper.reaper import Reaper, recover
from sweeper.service import Conflict, Service, Unknown
from sweeper.settings import Settings


class StrictRequest(Request):
    """A request whose JSON body may hold no NaN and no Infinity."""

    async def json(self) -> Any:
        body = await self.body()
        return json.loads(body, parse_constant=_reject_constant)


def _reject_constant(text: str) -> float:
    raise json.JSONDecodeError(f"{text} is no JSON number", text, 0)


class Route(APIRoute):
    """Maps our errors to HTTP, for whichever app includes the router."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def mapped(request: Request) -> Response:
            try:
                return await handle(StrictRequest(request.scope, request.receive))
            except RequestValidationError as error:
                raise HTTPException(422, _explain(error)) from error
            except SweeperError as error:
                raise HTTPException(_status(error), str(error)) from error
            except (DBAPIError, PoolTimeout, StorageInternalError) as error:
                raise HTTPException(503, f"the database does not answer as it should: {error}") from error

        return mapped


def _status(error: SweeperError) -> int:
    if isinstance(error, Unknown):
        return 404
    return 409 if isinstance(error, Conflict) else 422


def _explain(error: RequestValidationError) -> str:
    """All problems of a request in one line, without the input: it may be what JSON cannot hold."""
    problems = []
    for item in error.errors():
        place = ".".join(str(part) for part in item["loc"] if part != "body")
        reason = item.get("ctx", {}).get("error", "") if item["type"] == "json_invalid" else ""
        problems.append(f"{place}: {item['msg']} {reason}".strip())
    return "; ".join(problems)


def _service(request: Request) -> Service:
    return cast(Service, request.app.state.service)


ServiceDep = Annotated[Service, Depends(_service)]
router = APIRouter(prefix=API, route_class=Route)


class NewStudy(BaseModel):
    """POST /studies: a resolved study, as StudySpec gives it."""

    model_config = ConfigDict(extra="forbid")
    spec: dict[str, Any]


class Health(BaseModel):
    service: str
    storage: str
    """Without the password."""
    home: str


@router.get("/health")
def health(service: ServiceDep) -> Health:
    """That this is a sweeper service, and on which database."""
    storage = service.engine.url.render_as_string(hide_password=True)
    return Health(service="sweeper", storage=storage, home=str(service.settings.home))


@router.post("/workers")
def hello(words: Hello, service: ServiceDep) -> Welcome:
    """A worker introduces itself."""
    return leases.hello(service, words)


@router.post("/workers/{worker}/lease")
def lease(worker: str, request: LeaseRequest, service: ServiceDep) -> LeaseAnswer:
    """The next run, or why there is none."""
    return handout.lease(service, worker, request)


@router.post("/workers/{worker}/goodbye")
def goodbye(worker: str, words: Goodbye, service: ServiceDep) -> Done:
    """A worker leaves and hands back what it holds."""
    return leases.goodbye(service, worker, words)


@router.post("/leases/{lease_id}/events")
def deliver(lease_id: int, delivery: Delivery, service: ServiceDep) -> Receipt:
    """Events of a run, and the heartbeat of its lease."""
    return ingest.deliver(service, lease_id, delivery)


@router.post("/studies")
def create_study(new: NewStudy, service: ServiceDep) -> Done:
    """Create, confirm or extend a study."""
    return control.create_study(service, new.spec)


@router.post("/studies/{name}/pause")
def pause(name: str, service: ServiceDep) -> Done:
    """No new trials; running ones go on."""
    return control.set_state(service, name, "pause")


@router.post("/studies/{name}/resume")
def resume(name: str, service: ServiceDep) -> Done:
    """Hand out trials again."""
    return control.set_state(service, name, "resume")


@router.post("/studies/{name}/stop")
def stop(name: str, service: ServiceDep) -> Done:
    """No new trials, and running ones are told to stop."""
    return control.set_state(service, name, "stop")


@router.post("/studies/{name}/enqueue")
def enqueue(name: str, request: Enqueue, service: ServiceDep) -> Done:
    """Try these values next."""
    return control.enqueue(service, name, request)


@router.post("/studies/{name}/trials/{number}/stop")
def stop_trial(name: str, number: int, service: ServiceDep) -> Done:
    """Stop a running trial, or take a queued one out of the queue."""
    return control.stop_trial(service, name, number)


@router.post("/studies/{name}/promotions")
def promote_trial(name: str, request: PromoteRequest, service: ServiceDep, store: FitsDep) -> PromotionPlan:
    """Plan a full run of a trial's values, as they are or moved by a law, and, unless plan_only, queue it."""
    return promote.promote(service, name, request, store)


@router.post("/studies/{name}/confirmations")
def confirm_laws(name: str, request: PromoteRequest, service: ServiceDep, store: FitsDep) -> ConfirmationPlan:
    """Plan the short runs that a law's candidate calls for, and, unless plan_only, queue them."""
    return confirm.confirm(service, name, request, store)


@router.post("/studies/{name}/promotions/{number}/stop")
def stop_promotion(name: str, number: int, service: ServiceDep) -> Done:
    """Stop a full run; its checkpoint stays."""
    return promote.stop_promotion(service, name, number)


@asynccontextmanager
async def running_service(app: FastAPI, settings: Settings) -> AsyncGenerator[Service]:
    """Open the database, finish what an earlier service left undone, and watch leases for the block.

    Sets `app.state.service` and `app.state.engine`.
    """
    service = await to_thread.run_sync(Service.open, settings)
    try:
        await to_thread.run_sync(recover, service)
        threads = Reaper(service), Drawer(service)
        for thread in threads:
            thread.start()
        app.state.service, app.state.engine = service, service.engine
        try:
            yield service
        finally:
            for thread in threads:
                await to_thread.run_sync(thread.stop)
    finally:
        await to_thread.run_sync(service.close)
