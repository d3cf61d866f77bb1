"""The first tables: studies, promotions, runs and what they said, leases, workers, notes, events.

A new revision is a module beside this one with `down_revision` set to the newest; a test compares what the
revisions make with sweeper/tables.py.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "sweeper_studies",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("spec", sa.JSON(), nullable=False),
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("created_at", sa.Float(precision=53), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("name"),
    )
    op.create_table(
        "sweeper_workers",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("device_name", sa.Text(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("first_seen", sa.Float(precision=53), nullable=False),
        sa.Column("last_seen", sa.Float(precision=53), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "sweeper_events",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("study_id", sa.Integer(), nullable=True),
        sa.Column("at", sa.Float(precision=53), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("verb", sa.Text(), nullable=False),
        sa.Column("detail", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(
            ["study_id"],
            ["sweeper_studies.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(op.f("ix_sweeper_events_study_id"), "sweeper_events", ["study_id"], unique=False)
    op.create_table(
        "sweeper_notes",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("study_id", sa.Integer(), nullable=False),
        sa.Column("trial_number", sa.Integer(), nullable=True),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Float(precision=53), nullable=False),
        sa.ForeignKeyConstraint(
            ["study_id"],
            ["sweeper_studies.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(op.f("ix_sweeper_notes_study_id"), "sweeper_notes", ["study_id"], unique=False)
    op.create_table(
        "sweeper_promotions",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("study_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("trial_number", sa.Integer(), nullable=False),
        sa.Column("plan", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("created_at", sa.Float(precision=53), nullable=False),
        sa.Column("ended_at", sa.Float(precision=53), nullable=True),
        sa.ForeignKeyConstraint(
            ["study_id"],
            ["sweeper_studies.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("study_id", "number"),
    )
    op.create_index(op.f("ix_sweeper_promotions_study_id"), "sweeper_promotions", ["study_id"], unique=False)
    op.create_table(
        "sweeper_runs",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("study_id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("params", sa.JSON(), nullable=False),
        sa.Column("config", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("stop_requested", sa.String(length=32), nullable=False),
        sa.Column("worker", sa.String(length=64), nullable=True),
        sa.Column("created_at", sa.Float(precision=53), nullable=False),
        sa.Column("started_at", sa.Float(precision=53), nullable=True),
        sa.Column("ended_at", sa.Float(precision=53), nullable=True),
        sa.Column("last_seq", sa.Integer(), nullable=False),
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("device_name", sa.Text(), nullable=False),
        sa.Column("versions", sa.JSON(), nullable=False),
        sa.Column("git_commit", sa.String(length=64), nullable=False),
        sa.Column("parameters", sa.BigInteger(), nullable=True),
        sa.Column("resumed_step", sa.Integer(), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("tokens", sa.BigInteger(), nullable=False),
        sa.Column("seconds", sa.Float(precision=53), nullable=False),
        sa.Column("wall_seconds", sa.Float(precision=53), nullable=False),
        sa.Column("progress", sa.Float(precision=53), nullable=False),
        sa.Column("train_loss", sa.Float(precision=53), nullable=True),
        sa.Column("val_bpb", sa.Float(precision=53), nullable=True),
        sa.Column("peak_memory_bytes", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["study_id"],
            ["sweeper_studies.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("study_id", "kind", "number", "attempt"),
    )
    op.create_index("ix_sweeper_runs_state", "sweeper_runs", ["state"], unique=False)
    op.create_index(op.f("ix_sweeper_runs_study_id"), "sweeper_runs", ["study_id"], unique=False)
    op.create_table(
        "sweeper_leases",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("worker", sa.String(length=64), nullable=False),
        sa.Column("granted_at", sa.Float(precision=53), nullable=False),
        sa.Column("expires_at", sa.Float(precision=53), nullable=False),
        sa.Column("ended_at", sa.Float(precision=53), nullable=True),
        sa.Column("end_reason", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["run_id"],
            ["sweeper_runs.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_sweeper_leases_run_id"), "sweeper_leases", ["run_id"], unique=False)
    op.create_index(op.f("ix_sweeper_leases_worker"), "sweeper_leases", ["worker"], unique=False)
    op.create_table(
        "sweeper_messages",
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("seq", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("at", sa.Float(precision=53), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("body", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(
            ["run_id"],
            ["sweeper_runs.id"],
        ),
        sa.PrimaryKeyConstraint("run_id", "seq"),
    )
    op.create_table(
        "sweeper_outcomes",
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("tokens", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("seconds", sa.Float(precision=53), nullable=False),
        sa.Column("val_loss", sa.Float(precision=53), nullable=False),
        sa.Column("val_bpb", sa.Float(precision=53), nullable=False),
        sa.Column("val_tokens", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["run_id"],
            ["sweeper_runs.id"],
        ),
        sa.PrimaryKeyConstraint("run_id", "tokens"),
    )
    op.create_table(
        "sweeper_points",
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("seq", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("tokens", sa.BigInteger(), nullable=False),
        sa.Column("seconds", sa.Float(precision=53), nullable=False),
        sa.Column("progress", sa.Float(precision=53), nullable=False),
        sa.Column("fraction", sa.Float(precision=53), nullable=True),
        sa.Column("train_loss", sa.Float(precision=53), nullable=True),
        sa.Column("lr_factor", sa.Float(precision=53), nullable=True),
        sa.Column("tokens_per_second", sa.Float(precision=53), nullable=True),
        sa.Column("val_loss", sa.Float(precision=53), nullable=True),
        sa.Column("val_bpb", sa.Float(precision=53), nullable=True),
        sa.ForeignKeyConstraint(
            ["run_id"],
            ["sweeper_runs.id"],
        ),
        sa.PrimaryKeyConstraint("run_id", "seq"),
    )


def downgrade() -> None:
    op.drop_table("sweeper_points")
    op.drop_table("sweeper_outcomes")
    op.drop_table("sweeper_messages")
    op.drop_index(op.f("ix_sweeper_leases_worker"), table_name="sweeper_leases")
    op.drop_index(op.f("ix_sweeper_leases_run_id"), table_name="sweeper_leases")
    op.drop_table("sweeper_leases")
    op.drop_index(op.f("ix_sweeper_runs_study_id"), table_name="sweeper_runs")
    op.drop_index("ix_sweeper_runs_state", table_name="sweeper_runs")
    op.drop_table("sweeper_runs")
    op.drop_index(op.f("ix_sweeper_promotions_study_id"), table_name="sweeper_promotions")
    op.drop_table("sweeper_promotions")
    op.drop_index(op.f("ix_sweeper_notes_study_id"), table_name="sweeper_notes")
    op.drop_table("sweeper_notes")
    op.drop_index(op.f("ix_sweeper_events_study_id"), table_name="sweeper_events")
    op.drop_table("sweeper_events")
    op.drop_table("sweeper_workers")
    op.drop_table("sweeper_studies")
