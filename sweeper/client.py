"""The service over HTTP: what workers say to it, and the control verbs of the command line."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

import httpx
from pydantic import BaseModel

from sweeper.errors import SweeperError
from sweeper.protocol import (
    API,
    ConfirmationPlan,
    Delivery,
    Done,
    Enqueue,
    Goodbye,
    Grant,
    Hello,
    LeaseAnswer,
    LeaseRequest,
    NoWork,
    PromoteRequest,
    PromotionPlan,
    Receipt,
    Welcome,
)

LOOPBACK = ("127.0.0.1", "localhost", "::1")


class ServiceAway(SweeperError):
    """No answer, or a server fault: worth another try later."""


class Refused(SweeperError):
    """The service understood and said no; `status` is 404 unknown, 409 conflict or 422 bad input."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Client:
    """One service. Every method raises ServiceAway or Refused; see those."""

    def __init__(self, url: str, *, timeout_seconds: float = 30.0) -> None:
        self.url = url.rstrip("/")
        # A proxy from the environment must not stand between this machine and itself.
        local = httpx.URL(self.url).host in LOOPBACK
        self._http = httpx.Client(base_url=self.url + API, timeout=timeout_seconds, trust_env=not local)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def get(self, path: str) -> Any:
        return self._send("GET", path, None)

    def post(self, path: str, body: BaseModel | dict[str, Any] | None = None) -> Any:
        return self._send("POST", path, body)

    def _send(self, method: str, path: str, body: BaseModel | dict[str, Any] | None) -> Any:
        content = body.model_dump(mode="json") if isinstance(body, BaseModel) else body
        try:
            answer = self._http.request(method, path, json=content)
        except httpx.TransportError as error:
            raise ServiceAway(f"the service at {self.url} does not answer: {error}") from error
        if answer.status_code >= 500:
            raise ServiceAway(f"the service at {self.url} failed: {answer.status_code} {_detail(answer)}")
        if answer.status_code >= 400:
            raise Refused(_detail(answer), answer.status_code)
        try:
            return answer.json()
        except ValueError as error:
            raise ServiceAway(f"{self.url} answers, but not as a sweeper service: {answer.text:.100}") from error

    # What workers say.

    def hello(self, hello: Hello) -> Welcome:
        return Welcome.model_validate(self.post("/workers", hello))

    def lease(self, worker: str, request: LeaseRequest) -> Grant | NoWork:
        answer = LeaseAnswer.model_validate(self.post(f"/workers/{worker}/lease", request))
        given = answer.grant or answer.no_work
        if given is None:
            raise ServiceAway("the service granted nothing and gave no reason")
        return given

    def deliver(self, lease: int, delivery: Delivery) -> Receipt:
        return Receipt.model_validate(self.post(f"/leases/{lease}/events", delivery))

    def goodbye(self, worker: str, reason: str) -> str:
        return self._done(f"/workers/{worker}/goodbye", Goodbye(reason=reason))

    # What people say.

    def health(self) -> dict[str, Any]:
        """`service`, `storage` and `home` of the service that answers."""
        answer = self.get("/health")
        if not isinstance(answer, dict) or answer.get("service") != "sweeper":
            raise ServiceAway(f"{self.url} answers, but is no sweeper service")
        return answer

    def study(self, name: str) -> dict[str, Any]:
        """The study's summary: state, counts, best trial, running runs, promotions."""
        summary: dict[str, Any] = self.get(f"/studies/{name}")
        return summary

    def create_study(self, spec: dict[str, Any]) -> str:
        return self._done("/studies", {"spec": spec})

    def set_study(self, name: str, verb: str) -> str:
        """`verb` is pause, resume or stop."""
        return self._done(f"/studies/{name}/{verb}")

    def stop_trial(self, name: str, number: int) -> str:
        return self._done(f"/studies/{name}/trials/{number}/stop")

    def stop_promotion(self, name: str, number: int) -> str:
        return self._done(f"/studies/{name}/promotions/{number}/stop")

    def enqueue(self, name: str, params: dict[str, float | int | str | bool]) -> str:
        return self._done(f"/studies/{name}/enqueue", Enqueue(params=params))

    def promote(self, name: str, request: PromoteRequest) -> PromotionPlan:
        return PromotionPlan.model_validate(self.post(f"/studies/{name}/promotions", request))

    def confirm(self, name: str, request: PromoteRequest) -> ConfirmationPlan:
        return ConfirmationPlan.model_validate(self.post(f"/studies/{name}/confirmations", request))

    def _done(self, path: str, body: BaseModel | dict[str, Any] | None = None) -> str:
        return Done.model_validate(self.post(path, body)).message


def _detail(answer: httpx.Response) -> str:
    """The service's message; FastAPI gives a list of them for a malformed request."""
    try:
        detail = answer.json()["detail"]
    except (ValueError, KeyError, TypeError):
        return answer.text[:500] or answer.reason_phrase
    if isinstance(detail, str):
        return detail
    return "; ".join(f"{'.'.join(map(str, item.get('loc', [])))}: {item.get('msg', item)}" for item in detail)
