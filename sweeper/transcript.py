"""A script's log, told as the events of a run: what `dialects` reads, in, and `trainer.events`, out.  Pure.

The script validates when it likes, and trials are compared at rungs, which are shares of the budget.  So the
first validation at or after a rung counts for it, if it comes within LATEST_SHARE of the budget: one that comes
later has had more training than those it would be compared with.
"""

from __future__ import annotations

import math

from sweeper.dialects import Averaged, CapReached, Fact, Final, Remark, Said, Size, Train, Validation
from sweeper.protocol import CommandRun
from trainer import events
from trainer.events import Event

LATEST_SHARE = 0.1
STEP_EVENTS = 400
"""Most Step events of a run, beside the first ten steps: scripts may log every step."""
RESTART_STEPS = 10
"""Ranks that write at once are a few lines apart; a script that started over is further back than that."""
CLOSE_TO_END = 0.99


class Transcript:
    """One run as its log tells it."""

    def __init__(self, run: CommandRun, device: str, device_name: str) -> None:
        """
        Args:
            device: `cpu` or `cuda:N`, as the worker calls it.
        """
        self._run = run
        self._device, self._device_name = device.partition(":")[0], device_name
        self._facts: dict[str, float] = {}
        self._rungs = sorted(run.rungs)
        self._started = False
        self._logged_at: float | None = None
        self._forget()

    def _forget(self) -> None:
        """Back to before the first step."""
        self._step = self._train_step = self._val_step = -1
        self._seconds = self._progress = 0.0
        self._seconds_per_step: float | None = None
        self._spoke = (0.0, 0)
        self._validation: Validation | None = None
        self._averaged: Averaged | None = None
        self._finals: dict[str, Final] = {}
        self._sizes: dict[str, Size] = {}
        self._over = False

    @property
    def _tokens(self) -> int:
        return max(0, self._step) * round(self._run.batch_tokens or self._facts.get("train_batch_tokens", 0))

    def take(self, said: Said, wall_seconds: float) -> list[Event]:
        """The events that this line makes; an End among them is the last of the run.

        Args:
            wall_seconds: since the script was started.
        """
        match said:
            case Train() | Validation():
                return self._advance(said, wall_seconds)
            case Averaged():
                self._averaged = said
            case Final():
                return self._final(said)
            case Size():
                self._sizes[said.what] = said
            case Fact():
                return self._fact(said)
            case CapReached():
                self._over = True
            case Remark():
                return [events.Notice(message=said.text)]
        return []

    def finish(self, wall_seconds: float) -> list[Event]:
        """Outcome, scores, artifact and End of a script that left; nothing where it had no final score."""
        outcome = self._outcome()
        if outcome is None or not self._started:
            return []
        said: list[Event] = [*self._missed_rungs(1.0, at_end=True), outcome]
        scores = {kind: score for kind, final in self._finals.items() if (score := self._score(kind, final))}
        said += scores.values()
        if (export := self._export(outcome, scores.get("quantised"))) is not None:
            said.append(export)
        return [*said, self._end("complete", wall_seconds)]

    def _fact(self, fact: Fact) -> list[Event]:
        known = self._facts.get(fact.name)
        self._facts[fact.name] = fact.value
        wanted = self._run.budget_seconds
        if fact.name != "max_wallclock_seconds" or wanted is None or known is not None or fact.value == wanted:
            return []
        text = f"the script says max_wallclock_seconds {fact.value:g} where the budget is {wanted:g} s"
        return [events.Notice(message=text)]

    def _advance(self, line: Train | Validation, wall_seconds: float) -> list[Event]:
        said: list[Event] = []
        if line.step * 2 < self._step - RESTART_STEPS:
            said.append(events.Notice(message=f"the script started over: from step {self._step} back to {line.step}"))
            self._forget()
        repeated = line.step <= (self._train_step if isinstance(line, Train) else self._val_step)
        if repeated:  # another rank's line, or the same weights validated again
            if isinstance(line, Validation) and line.step == self._val_step and math.isfinite(line.val_bpb):
                self._validation = line
            return said
        self._move(line)
        if not self._started:
            self._started = True
            said.append(self._start(wall_seconds))
        said += self._missed_rungs(self._progress)
        if isinstance(line, Train):
            self._train_step = line.step
            return said + (self._trained(line) if math.isfinite(line.loss) else [self._diverged(line, wall_seconds)])
        self._val_step = line.step
        if not (math.isfinite(line.val_loss) and math.isfinite(line.val_bpb)):
            return [*said, self._diverged(line, wall_seconds)]
        self._validation = line
        return said + self._validated(line)

    def _move(self, line: Train | Validation) -> None:
        """Bring step, seconds and progress up to the line's."""
        seconds = line.seconds
        if seconds is not None and line.step > 0:
            self._seconds_per_step = seconds / line.step
        if seconds is None and self._seconds_per_step is not None:
            seconds = self._seconds_per_step * line.step
        self._step = max(self._step, line.step)
        self._seconds = max(self._seconds, seconds or 0.0)
        cap = self._run.budget_seconds
        if cap is not None:
            cap = self._facts.get("max_wallclock_seconds") or cap
        # Whichever limit comes first.
        by_time = self._seconds / cap if cap else 0.0
        self._progress = min(1.0, max(self._progress, by_time, line.step / line.total))

    def _start(self, wall_seconds: float) -> events.Start:
        devices = max(1, round(self._facts.get("world_size", 1)))
        accumulation = max(1, round(self._facts.get("grad_accum_steps", 1)))
        batch_tokens = round(self._run.batch_tokens or self._facts.get("train_batch_tokens", 0))
        return events.Start(
            device=self._device,
            device_name=self._device_name,
            versions={},
            parameters=round(self._facts.get("model_params", 0)),
            micro_batch_tokens=batch_tokens // (devices * accumulation),
            accumulation=accumulation,
            setup_seconds=max(0.0, wall_seconds - self._seconds),
            devices=devices,
        )

    def _trained(self, line: Train) -> list[Event]:
        near = self._logged_at is not None and self._progress - self._logged_at < 1 / STEP_EVENTS
        if near and line.step > 10:
            return []
        self._logged_at = self._progress
        (before, tokens_before), self._spoke = self._spoke, (self._seconds, self._tokens)
        passed = self._seconds - before
        return [
            events.Step(
                step=self._step,
                tokens=self._tokens,
                seconds=self._seconds,
                progress=self._progress,
                train_loss=line.loss,
                lr_factor=None,
                tokens_per_second=(self._tokens - tokens_before) / passed if passed > 0 else 0.0,
            )
        ]

    def _validated(self, line: Validation) -> list[Event]:
        fraction = self._progress
        if self._progress < 1:
            passed = [rung for rung in self._rungs if rung <= self._progress + 1e-9]
            if passed:
                fraction = passed[-1]
                self._rungs = self._rungs[len(passed) :]
        return [
            events.Eval(
                step=self._step,
                tokens=self._tokens,
                seconds=self._seconds,
                progress=self._progress,
                fraction=fraction,
                val_loss=line.val_loss,
                val_bpb=line.val_bpb,
                val_tokens=round(self._facts.get("val_tokens", 0)),
                eval_seconds=0.0,
            )
        ]

    def _missed_rungs(self, progress: float, *, at_end: bool = False) -> list[Event]:
        """A word on the rungs that no validation came in time for: the trial is not judged there."""
        missed = [rung for rung in self._rungs if at_end or rung + LATEST_SHARE + 1e-9 < progress]
        self._rungs = self._rungs[len(missed) :]
        if not missed:
            return []
        where = ", ".join(f"{rung:g}" for rung in missed)
        return [
            events.Notice(
                message=f"no validation was logged at the rung {where} or within {LATEST_SHARE:g} of the budget after "
                f"it, so this trial is not pruned there: let the script validate more often (VAL_LOSS_EVERY)"
            )
        ]

    def _final(self, final: Final) -> list[Event]:
        if not final.kind:
            return [events.Notice(message=f"{final.label}: val_bpb {final.val_bpb:g}, a score that is not compared")]
        if not math.isfinite(final.val_bpb):
            return [events.Notice(message=f"{final.label} is {final.val_bpb:g}, and is left out")]
        known = self._finals.get(final.kind)
        if known is None or final.exact or not known.exact:
            self._finals[final.kind] = final
        return []

    def _outcome(self) -> events.Outcome | None:
        """The last score before quantisation; None where the script did not come to its end."""
        if not self._finals and not self._reached_end():
            return None
        last = self._averaged or self._validation or self._finals.get("quantised")
        last = last or next(iter(self._finals.values()), None)
        if last is None or not math.isfinite(last.val_bpb):
            return None
        return events.Outcome(
            step=max(0, self._step),
            tokens=self._tokens,
            seconds=self._seconds,
            val_loss=self._val_loss(last),
            val_bpb=last.val_bpb,
            val_tokens=round(self._facts.get("val_tokens", 0)),
        )

    def _reached_end(self) -> bool:
        validated_last = self._validation is not None and self._val_step >= self._train_step
        return validated_last and (self._over or self._progress >= CLOSE_TO_END)

    def _val_loss(self, last: Validation | Averaged | Final) -> float:
        """The line's own, or from its bits by what other lines say of bits and nats; 0 where none says."""
        if last.val_loss is not None and math.isfinite(last.val_loss):
            return last.val_loss
        pairs = [(line.val_loss, line.val_bpb) for line in (self._validation, *self._finals.values()) if line]
        for val_loss, val_bpb in pairs:
            if val_loss is not None and math.isfinite(val_loss) and val_bpb > 0:
                return last.val_bpb * val_loss / val_bpb
        return 0.0

    def _score(self, kind: str, final: Final) -> events.Score:
        return events.Score(
            name=kind,
            step=max(0, self._step),
            tokens=self._tokens,
            seconds=self._seconds,
            val_loss=self._val_loss(final),
            val_bpb=final.val_bpb,
            val_tokens=round(self._facts.get("val_tokens", 0)),
            eval_seconds=final.eval_seconds,
        )

    def _export(self, outcome: events.Outcome, quantised: events.Score | None) -> events.Export | None:
        total, model = self._sizes.get("total"), self._sizes.get("model")
        size = total or model
        if size is None:
            return None
        val_bpb = outcome.val_bpb if quantised is None else quantised.val_bpb
        return events.Export(
            scheme=size.scheme,
            codec=size.codec,
            artifact_bytes=size.bytes,
            code_bytes=round(self._facts.get("code_bytes", 0)) if total else 0,
            raw_bytes=model.payload_bytes if model else 0,
            val_bpb=val_bpb,
            gap=val_bpb - outcome.val_bpb,
            export_seconds=0.0,
        )

    def _diverged(self, line: Train | Validation, wall_seconds: float) -> events.End:
        name = "train_loss" if isinstance(line, Train) else "val_loss"
        return self._end("diverged", wall_seconds, f"{name} is not finite at step {line.step}")

    def _end(self, reason: str, wall_seconds: float, detail: str = "") -> events.End:
        return events.End(
            reason=reason,
            step=max(0, self._step),
            tokens=self._tokens,
            seconds=self._seconds,
            wall_seconds=wall_seconds,
            peak_memory_bytes=round(self._facts.get("peak_memory_mib", 0)) * 2**20,
            detail=detail,
        )
