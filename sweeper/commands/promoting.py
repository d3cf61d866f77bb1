"""`sweeper promote`: show the plan, ask, run it here, resume it when it was broken off."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass

import typer
from rich.console import Console
from rich.live import Live
from rich.text import Text

from sweeper import devices, display, fleet, hosting
from sweeper.client import Client, ServiceAway
from sweeper.commands.launching import ACTIVE, LINE_SECONDS, LOOK_SECONDS, workers
from sweeper.display import Record
from sweeper.errors import SweeperError
from sweeper.protocol import PromoteRequest, PromotionPlan
from sweeper.settings import Settings
from sweeper.study import Profile, StudySpec, load_with_plan
from sweeper.transferred import CONFIRM, By, Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What the command line asked for."""

    study: str
    trial: int | None
    tokens: str | None
    yes: bool
    host: str
    port: int | None
    device: devices.Wish
    gpus: int = 1
    hours: float | None = None
    """In place of tokens."""
    gpu: str | None = None
    """Whose hours they are."""
    by: By | None = None
    """Whose values; None lets the laws of the study decide."""
    plan: str = ""
    """Of `sweeper run`: the plan file."""
    profile: Profile | None = None
    """Of `sweeper run`, where it was asked for."""
    spec: StudySpec | None = None
    """Of `sweeper run`: the study with that plan in it, to be created or changed first."""


def by_hand(
    plan: str, profile: Profile | None, *, yes: bool, host: str, port: int | None, device: devices.Wish, gpus: int
) -> Order:
    """What `sweeper run` asks for.

    Raises:
        SweeperError: a plan or its study that cannot be read, or do not fit.
    """
    spec = load_with_plan(plan, profile or ("cpu" if device == "cpu" else devices.profile()))
    return Order(
        study=spec.name,
        trial=None,
        tokens=None,
        yes=yes,
        host=host,
        port=port,
        device=device,
        gpus=gpus,
        plan=plan,
        profile=profile,
        spec=spec,
    )


def promote(order: Order, settings: Settings, console: Console) -> int:
    """Plan, agree, run; the exit status: 0 complete or declined, 1 not complete, 130 after Ctrl-C.

    Raises:
        SweeperError: an unknown study or trial, or nobody to ask and no --yes.
    """
    assigned = devices.assign(order.device, 1)
    devices.check_several(assigned[0], order.gpus)
    service = hosting.Service(settings, order.host, order.port)
    try:
        with Client(service.url) as client:
            fleet.bury_dead_workers(client)
            if order.spec is not None:
                display.say(console, client.create_study(order.spec.model_dump(mode="json")))
            number = _agree(order, devices.describe(assigned[0]), client, console)
            if number is None:
                return 0
            display.say(console, f"dashboard: {service.url}/studies/{order.study}")
            crew = fleet.Fleet(settings, service.url, order.study, assigned, "promotion", order.gpus)
            with workers(crew, console) as hands:
                (ended,) = watch(order.study, (number,), service, hands, client, console)
                return _conclude(order, ended, client, console)
    except KeyboardInterrupt:
        display.say(
            console, f"stopped with a checkpoint. To go on from it, give the same command again: {_command(order)}"
        )
        return 130
    finally:
        service.stop()


def _command(order: Order) -> str:
    given = {
        "--trial": order.trial,
        "--tokens": order.tokens,
        "--hours": order.hours,
        "--gpu": order.gpu,
        "--by": order.by,
        "--device": None if order.device == "auto" else order.device,
        "--gpus": order.gpus if order.gpus > 1 else None,
        "--profile": order.profile,
    }
    words = ["sweeper", "run", order.plan] if order.spec is not None else ["sweeper", "promote", "--study", order.study]
    return display.command_line(*words, options=given)


def _agree(order: Order, device_name: str, client: Client, console: Console) -> int | None:
    """The number of the promotion to run, new or unfinished; None when the user declined."""
    request = PromoteRequest(
        trial=order.trial,
        tokens=order.tokens,
        hours=order.hours,
        gpu=order.gpu,
        device_name=device_name,
        by=order.by,
        by_hand=order.spec is not None,
        plan_only=True,
    )
    plan = client.promote(order.study, request)
    summary = client.study(order.study)
    unfinished = _unfinished(plan, order.by, summary)
    if unfinished is not None:
        display.say(console, f"resuming {display.promotion_line(unfinished, summary['unit'])}")
        return int(unfinished["number"])
    console.print(display.plan_view(plan))
    if not order.yes:
        if not console.is_terminal:
            raise SweeperError("nobody is there to ask: give --yes to start this run without a terminal")
        if not typer.confirm("Start this run?"):
            return None
    # What was shown is what runs, even if a better trial has come in since.
    tokens = None if plan.name or plan.hours else plan.length or str(plan.tokens)
    seen = plan.transfer
    laws = {"by": seen.chosen, "data_hash": seen.data_hash, "why": seen.why} if seen else {}
    exact = request.model_copy(update={"trial": plan.trial, "tokens": tokens, "plan_only": False, **laws})
    created = client.promote(order.study, exact)
    assert created.number is not None
    return created.number


def _unfinished(plan: PromotionPlan, by: By | None, summary: Record) -> Record | None:
    """An earlier promotion of the same trial and length that can go on; by whichever law, unless one is asked for: what
    was chosen then is not chosen anew, nor are the tokens that its hours held then."""
    for promotion in summary["promotions"]:
        long = "planned_tokens" if plan.hours is None else "hours"
        same = promotion["trial"] == plan.trial and promotion[long] == (plan.hours or plan.tokens)
        same = same and promotion["by"] != CONFIRM and by in (None, promotion["by"])
        if same and promotion["state"] in ACTIVE:
            found: Record = promotion
            return found
    return None


def watch(
    study: str, numbers: Sequence[int], service: hosting.Service, hands: fleet.Fleet, client: Client, console: Console
) -> list[Record]:
    """Show these promotions until all have ended; as they then are."""
    spoke_at = -LINE_SECONDS
    live = Live(console=console, auto_refresh=False) if console.is_terminal else None
    with live or contextlib.nullcontext():
        while True:
            for line in [*service.check(), *hands.check()]:
                display.say(console, line, "yellow")
            try:
                summary = client.study(study)
            except ServiceAway:
                time.sleep(LOOK_SECONDS)
                continue
            mine = [promotion for promotion in summary["promotions"] if promotion["number"] in numbers]
            lines = [display.promotion_line(promotion, summary["unit"]) for promotion in mine]
            if live:
                live.update(Text("\n".join(lines)), refresh=True)
            elif time.monotonic() - spoke_at > LINE_SECONDS:
                display.say(console, "\n".join(lines))
                spoke_at = time.monotonic()
            if not any(promotion["state"] in ACTIVE for promotion in mine):
                return mine
            time.sleep(LOOK_SECONDS)


def _conclude(order: Order, promotion: Record, client: Client, console: Console) -> int:
    name = f"promotion {promotion['number']} of {order.study}"
    if (success := client.get(f"/studies/{order.study}/promotions/{promotion['number']}/success"))["rows"]:
        console.print(display.success_view(success))
    if promotion["state"] != "complete":
        reason = f": {promotion['reason']}" if promotion["reason"] else ""
        display.say(console, f"{name} is {promotion['state']}{reason}", "red")
        return 1
    summary = client.study(order.study)
    judged = f"{display.ranked_by(summary)} {promotion['val_bpb']:.6f}{summary['unit']['suffix']}"
    told = f"{judged} after {display.count(promotion['tokens'])} tokens"
    if promotion["trial"] is not None:
        trial = client.get(f"/studies/{order.study}/trials/{promotion['trial']}")["row"]
        score, tokens = display.score(trial["score"]), display.count(trial["tokens"])
        told += f"; trial {promotion['trial']} had {score} after {tokens}"
    display.say(console, f"{name} is complete: {told}", "green")
    if promotion["foretold"] is not None:
        foretold = Interval.model_validate(promotion["foretold"])
        inside = "inside" if foretold.low <= promotion["val_bpb"] <= foretold.high else "outside"
        display.say(console, f"foretold was {foretold.words()}: it ended {inside} the 95 %")
    if promotion["infeasible"]:
        display.say(console, f"it breaks a limit of the study: {promotion['infeasible']}", "red")
    return 0
