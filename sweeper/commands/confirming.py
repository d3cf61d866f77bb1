"""`sweeper confirm`: the short runs that a law calls for before a full run: shown, started, and what they came to."""

from __future__ import annotations

from dataclasses import dataclass

import typer
from rich.console import Console

from sweeper import devices, display, fleet, hosting
from sweeper.client import Client
from sweeper.commands.launching import ACTIVE, workers
from sweeper.commands.promoting import watch
from sweeper.display import Record
from sweeper.protocol import ConfirmationPlan, PromoteRequest, PromotionPlan
from sweeper.settings import Settings
from sweeper.transferred import CONFIRM, MORE_TRIALS, WORDS, By


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What the command line asked for."""

    study: str
    trial: int | None
    tokens: str | None
    hours: float | None
    gpu: str | None
    by: By | None
    yes: bool
    workers: int | None
    host: str
    port: int | None
    device: devices.Wish
    gpus: int

    def command(self, verb: str) -> str:
        """The command line of a verb with this order's full run."""
        given: dict[str, object] = {
            "--trial": self.trial,
            "--tokens": self.tokens,
            "--hours": self.hours,
            "--gpu": self.gpu,
            "--by": self.by,
        }
        if verb == "confirm":
            given |= {
                "--workers": self.workers,
                "--device": None if self.device == "auto" else self.device,
                "--gpus": self.gpus if self.gpus > 1 else None,
            }
        return display.command_line("sweeper", verb, "--study", self.study, options=given)


def confirm(order: Order, settings: Settings, console: Console) -> int:
    """Show the runs, agree, run them here; the exit status: 0 all ended with a result, or none is needed or wanted, 1
    not so, 130 after Ctrl-C.

    Raises:
        SweeperError: an unknown study or trial, an impossible length, or no law to confirm.
    """
    assigned = devices.assign(order.device, 1 if order.gpus > 1 else order.workers)
    devices.check_several(assigned[0], order.gpus)
    service = hosting.Service(settings, order.host, order.port)
    try:
        with Client(service.url) as client:
            fleet.bury_dead_workers(client)
            numbers = _agree(order, devices.describe(assigned[0]), client, console)
            if not numbers:
                return 0
            display.say(console, f"dashboard: {service.url}/studies/{order.study}")
            crew = fleet.Fleet(settings, service.url, order.study, assigned[: len(numbers)], "promotion", order.gpus)
            with workers(crew, console) as hands:
                ended = watch(order.study, numbers, service, hands, client, console)
            return _conclude(order, ended, client, console)
    except KeyboardInterrupt:
        again = order.command("confirm")
        display.say(console, f"stopped with checkpoints. To go on from them, give the same command again: {again}")
        return 130
    finally:
        service.stop()


def _agree(order: Order, device_name: str, client: Client, console: Console) -> list[int]:
    """Numbers of the runs to watch, unfinished or new; none where none is needed, or they are declined."""
    summary = client.study(order.study)
    unfinished = [p for p in summary["promotions"] if p["by"] == CONFIRM and p["state"] in ACTIVE]
    if unfinished:
        for promotion in unfinished:
            display.say(console, f"resuming {display.promotion_line(promotion, summary['unit'])}")
        return [int(promotion["number"]) for promotion in unfinished]
    request = _request(order, device_name)
    plan = client.confirm(order.study, request)
    _show(order, plan, console)
    if not plan.runs:
        return []
    if not order.yes:
        if not console.is_terminal:
            display.say(console, f"to start them: {order.command('confirm')} --yes")
            return []
        if not typer.confirm("Start these runs?"):
            return []
    made = client.confirm(order.study, request.model_copy(update={"plan_only": False, "data_hash": plan.data_hash}))
    return [run.number for run in made.runs if run.number is not None]


def _request(order: Order, device_name: str) -> PromoteRequest:
    return PromoteRequest(
        trial=order.trial,
        tokens=order.tokens,
        hours=order.hours,
        gpu=order.gpu,
        device_name=device_name,
        by=order.by,
        plan_only=True,
    )


def _show(order: Order, plan: ConfirmationPlan, console: Console) -> None:
    law, full = WORDS[plan.by], f"a full run of {plan.full_tokens:,} tokens"
    if not plan.because:
        display.say(console, f"{order.study}: nothing calls for confirming the {law} before {full}", "green")
        display.say(console, f"to start it: {order.command('promote')}")
        return
    cost = f", for {plan.cost_share:.1%} of its cost:" if plan.runs or plan.there else f": {MORE_TRIALS}"
    display.say(console, f"{order.study}: to confirm the {law} before {full}{cost}")
    for reason in plan.because:
        display.say(console, f"  because {reason}")
    for run in plan.runs:
        display.say(console, f"  {_line(run)}")
    for number in plan.there:
        display.say(console, f"  confirmation run {number} has been made, and is not made again")
    for note in plan.notes:
        display.say(console, f"  {note}")
    if not plan.runs:
        if plan.there:
            display.say(console, "all of them have been made: what is still unsure, more of the same will not tell")
        return
    known = [run.seconds for run in plan.runs if run.seconds is not None]
    display.say(console, f"  {_hours(sum(known))} of device time in all, without validation and compilation")


def _line(run: PromotionPlan) -> str:
    optim, batch = run.config["optim"], run.config["data"]["batch_tokens"]
    factor = run.confirms.factor if run.confirms else 1.0
    took = "time not known" if run.seconds is None else _hours(run.seconds)
    return (
        f"rate × {factor:g}: matrix_lr {optim['matrix_lr']:.4g}, decay {optim['matrix_weight_decay']:.3g}, "
        f"batch {batch:,}, {run.tokens:,} tokens ({run.steps:,} steps), {took}"
    )


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.2f} hours" if seconds >= 36 else f"{seconds:.1f} s"


def _conclude(order: Order, ended: list[Record], client: Client, console: Console) -> int:
    summary = client.study(order.study)
    judged, unit = display.ranked_by(summary), summary["unit"]["suffix"]
    for run in ended:
        name = f"confirmation run {run['number']}"
        if run["state"] == "complete":
            tokens = display.count(run["tokens"])
            display.say(console, f"{name}: {judged} {run['val_bpb']:.6f}{unit} after {tokens} tokens")
        else:
            reason = f": {run['reason']}" if run["reason"] else ""
            display.say(console, f"{name} is {run['state']}{reason}", "yellow")
    _show(order, client.confirm(order.study, _request(order, "")), console)
    return 0 if all(run["state"] in ("complete", "diverged") for run in ended) else 1
