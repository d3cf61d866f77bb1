"""Our tables, beside Optuna's in one database.  Typed SQLAlchemy 2; times are Unix seconds, UTC.

Optuna's tables hold studies, trials, parameters, rung values; these hold what it has no place for.  A trial
is a row of Optuna's; a run is one execution of a trial or of a promotion, and owns curve, messages, lease.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, BigInteger, Float, ForeignKey, Index, Integer, String, Text, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

BigId = BigInteger().with_variant(Integer, "sqlite")


class Base(DeclarativeBase):
    type_annotation_map = {dict[str, Any]: JSON, float: Float(53), str: Text}  # noqa: RUF012


class StudyRow(Base):
    """A study file as it was accepted, and what its owner wants of it now."""

    __tablename__ = "sweeper_studies"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(255), unique=True)
    spec: Mapped[dict[str, Any]]
    """The resolved study (device profile applied), as plain JSON."""
    fingerprint: Mapped[str] = mapped_column(String(64))
    """Of what may not change once trials exist."""
    state: Mapped[str] = mapped_column(String(16), default="running")
    """`running`, `paused`, `stopped`."""
    created_at: Mapped[float]


class PromotionRow(Base):
    """A full run of a trial's values, or a confirmation run of the study's laws."""

    __tablename__ = "sweeper_promotions"
    id: Mapped[int] = mapped_column(primary_key=True)
    study_id: Mapped[int] = mapped_column(ForeignKey("sweeper_studies.id"), index=True)
    number: Mapped[int]
    """Counts from 0 within the study."""
    trial_number: Mapped[int | None]
    """None for a plan's own values."""
    plan: Mapped[dict[str, Any]]
    """A PromotionPlan, without its transfer."""
    candidate: Mapped[str] = mapped_column(String(16), default="copied")
    """Whose values it runs: `copied`, `prior`, `fitted`, `own` for those of the plan file, or `confirm`: a confirmation
    run, whose plan says of what."""
    transfer: Mapped[dict[str, Any] | None]
    """A Transfer: laws, start, predicted score; None where no law could have moved the values."""
    state: Mapped[str] = mapped_column(String(16), default="waiting")
    """`waiting`, `running`, `complete`, `diverged`, `stopped`, `failed`."""
    created_at: Mapped[float]
    ended_at: Mapped[float | None]
    __table_args__ = (UniqueConstraint("study_id", "number"),)


class RunRow(Base):
    """One execution: which trial or promotion, what config, and how far it came."""

    __tablename__ = "sweeper_runs"
    id: Mapped[int] = mapped_column(primary_key=True)
    study_id: Mapped[int] = mapped_column(ForeignKey("sweeper_studies.id"), index=True)
    kind: Mapped[str] = mapped_column(String(16))
    """`trial` or `promotion`."""
    number: Mapped[int]
    """Trial number or promotion number."""
    attempt: Mapped[int] = mapped_column(default=1)
    params: Mapped[dict[str, Any]]
    """The searched values by config path (ties not repeated)."""
    config: Mapped[dict[str, Any]]
    state: Mapped[str] = mapped_column(String(16), default="running")
    """`running`, `complete`, `pruned`, `diverged`, `stopped`, `failed`."""
    reason: Mapped[str] = mapped_column(default="")
    """Why it ended as it did, in words: `behind at 30 %`, `died: signal 9`, …"""
    stop_requested: Mapped[str] = mapped_column(String(32), default="")
    """Reason of a stop order that the worker has yet to carry out; empty for none."""
    worker: Mapped[str | None] = mapped_column(String(64))
    created_at: Mapped[float]
    started_at: Mapped[float | None]
    """When its Start event arrived."""
    ended_at: Mapped[float | None]
    last_seq: Mapped[int] = mapped_column(default=-1)
    device: Mapped[str] = mapped_column(default="")
    device_name: Mapped[str] = mapped_column(default="")
    versions: Mapped[dict[str, Any]] = mapped_column(default=dict)
    git_commit: Mapped[str] = mapped_column(String(64), default="")
    """Of the training code, as Start has it."""
    parameters: Mapped[int | None] = mapped_column(BigInteger)
    resumed_step: Mapped[int] = mapped_column(default=0)
    step: Mapped[int] = mapped_column(default=0)
    tokens: Mapped[int] = mapped_column(BigInteger, default=0)
    seconds: Mapped[float] = mapped_column(default=0.0)
    """Training seconds."""
    wall_seconds: Mapped[float] = mapped_column(default=0.0)
    """From lease to end: what the device was held for."""
    progress: Mapped[float] = mapped_column(default=0.0)
    train_loss: Mapped[float | None]
    val_bpb: Mapped[float | None]
    """Latest streamed value."""
    score: Mapped[float | None]
    """Of a complete run: the score that the study judges by."""
    score_stderr: Mapped[float | None]
    infeasible: Mapped[str] = mapped_column(default="")
    """Of a complete run: the limits that it breaks, in words; empty for none."""
    peak_memory_bytes: Mapped[int] = mapped_column(BigInteger, default=0)
    __table_args__ = (
        UniqueConstraint("study_id", "kind", "number", "attempt"),
        Index("ix_sweeper_runs_state", "state"),
    )


class PointRow(Base):
    """One sample of a curve: a Step (train_loss) or an Eval (val_loss, val_bpb)."""

    __tablename__ = "sweeper_points"
    run_id: Mapped[int] = mapped_column(ForeignKey("sweeper_runs.id"), primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    step: Mapped[int]
    tokens: Mapped[int] = mapped_column(BigInteger)
    seconds: Mapped[float]
    progress: Mapped[float]
    fraction: Mapped[float | None]
    """Of an Eval: the share of the budget that was asked for."""
    train_loss: Mapped[float | None]
    lr_factor: Mapped[float | None]
    tokens_per_second: Mapped[float | None]
    val_loss: Mapped[float | None]
    val_bpb: Mapped[float | None]
    val_bpb_stderr: Mapped[float | None]
    """Standard error of val_bpb; None where the trainer did not say."""


class OutcomeRow(Base):
    """The score of a run at its full budget, or of a branch of it at a smaller one."""

    __tablename__ = "sweeper_outcomes"
    run_id: Mapped[int] = mapped_column(ForeignKey("sweeper_runs.id"), primary_key=True)
    tokens: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    step: Mapped[int]
    seconds: Mapped[float]
    val_loss: Mapped[float]
    val_bpb: Mapped[float]
    val_tokens: Mapped[int] = mapped_column(BigInteger)
    val_bpb_stderr: Mapped[float | None]
    """As in PointRow."""
    targets: Mapped[int | None] = mapped_column(BigInteger)
    """Of `tokens`, those that had a target; None where all had."""
    budget: Mapped[float | None]
    """The smaller budget, in the unit of the run's own; None for the full one, by which alone a run is judged."""
    branch_seconds: Mapped[float] = mapped_column(default=0.0)
    """Of `seconds`, those that the branch trained for."""


class ScoreRow(Base):
    """Another score of a run at a budget, by the name that its Score gives."""

    __tablename__ = "sweeper_scores"
    run_id: Mapped[int] = mapped_column(ForeignKey("sweeper_runs.id"), primary_key=True)
    name: Mapped[str] = mapped_column(String(32), primary_key=True)
    tokens: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    step: Mapped[int]
    seconds: Mapped[float]
    val_loss: Mapped[float]
    val_bpb: Mapped[float]
    val_tokens: Mapped[int] = mapped_column(BigInteger)
    val_bpb_stderr: Mapped[float | None]
    """As in PointRow."""
    eval_seconds: Mapped[float]


class ExportRow(Base):
    """The artifact of a run; see the trainer's Export."""

    __tablename__ = "sweeper_exports"
    run_id: Mapped[int] = mapped_column(ForeignKey("sweeper_runs.id"), primary_key=True)
    scheme: Mapped[str] = mapped_column(String(32))
    codec: Mapped[str] = mapped_column(String(32))
    artifact_bytes: Mapped[int] = mapped_column(BigInteger)
    code_bytes: Mapped[int] = mapped_column(BigInteger)
    raw_bytes: Mapped[int] = mapped_column(BigInteger)
    val_bpb: Mapped[float]
    gap: Mapped[float]
    export_seconds: Mapped[float]


class MessageRow(Base):
    """What a run said that is no curve point: start, notice, log, end, failure."""

    __tablename__ = "sweeper_messages"
    run_id: Mapped[int] = mapped_column(ForeignKey("sweeper_runs.id"), primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    at: Mapped[float]
    kind: Mapped[str] = mapped_column(String(16))
    body: Mapped[dict[str, Any]]


class LeaseRow(Base):
    """A run in a worker's hand. Its id is the fencing token."""

    __tablename__ = "sweeper_leases"
    id: Mapped[int] = mapped_column(primary_key=True)
    run_id: Mapped[int] = mapped_column(ForeignKey("sweeper_runs.id"), index=True)
    worker: Mapped[str] = mapped_column(String(64), index=True)
    granted_at: Mapped[float]
    expires_at: Mapped[float]
    ended_at: Mapped[float | None]
    end_reason: Mapped[str] = mapped_column(default="")
    __table_args__ = ({"sqlite_autoincrement": True},)


class WorkerRow(Base):
    """A worker process that said hello."""

    __tablename__ = "sweeper_workers"
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    host: Mapped[str]
    pid: Mapped[int]
    device: Mapped[str]
    device_name: Mapped[str]
    state: Mapped[str] = mapped_column(String(16), default="idle")
    """`idle`, `busy`, `gone`."""
    first_seen: Mapped[float]
    last_seen: Mapped[float]


class ThroughputRow(Base):
    """How fast a device trains a shape of model and batch, as measured last; every finished run adds to it."""

    __tablename__ = "sweeper_throughput"
    id: Mapped[int] = mapped_column(primary_key=True)
    device_name: Mapped[str] = mapped_column(String(255))
    """As the trainer's Start says it."""
    devices: Mapped[int]
    """That shared the run."""
    num_layers: Mapped[int]
    model_dim: Mapped[int]
    num_heads: Mapped[int]
    num_kv_heads: Mapped[int]
    mlp_mult: Mapped[float]
    vocab_size: Mapped[int]
    tie_embeddings: Mapped[bool]
    seq_len: Mapped[int]
    batch_tokens: Mapped[int] = mapped_column(BigInteger)
    options: Mapped[str] = mapped_column(String(400))
    """Those of the model that cost time and are on, in words; empty for none."""
    tokens_per_second: Mapped[float]
    """Of training seconds."""
    seconds: Mapped[float]
    """Training seconds that it was measured over."""
    setup_seconds: Mapped[float | None]
    """Before the clock of that run started."""
    peak_memory_bytes: Mapped[int] = mapped_column(BigInteger)
    """0 where the device does not say."""
    source: Mapped[str] = mapped_column(String(16))
    """`bench`, `trial` or `promotion`."""
    measured_at: Mapped[float]
    __table_args__ = (
        UniqueConstraint(
            "device_name", "devices", "num_layers", "model_dim", "num_heads", "num_kv_heads", "mlp_mult",
            "vocab_size", "tie_embeddings", "seq_len", "batch_tokens", "options", name="uq_sweeper_throughput_shape",
        ),
    )  # fmt: skip


class NoteRow(Base):
    """A user's remark on a study or a trial."""

    __tablename__ = "sweeper_notes"
    id: Mapped[int] = mapped_column(primary_key=True)
    study_id: Mapped[int] = mapped_column(ForeignKey("sweeper_studies.id"), index=True)
    trial_number: Mapped[int | None]
    text: Mapped[str]
    created_at: Mapped[float]


class EventRow(Base):
    """Audit trail: who did what to a study."""

    __tablename__ = "sweeper_events"
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    study_id: Mapped[int | None] = mapped_column(ForeignKey("sweeper_studies.id"), index=True)
    at: Mapped[float]
    actor: Mapped[str]
    """`user`, `service`, or a worker's id."""
    verb: Mapped[str]
    """`created`, `leased`, `finished`, `retried`, `expired`, `paused`, …"""
    detail: Mapped[dict[str, Any]] = mapped_column(default=dict)
