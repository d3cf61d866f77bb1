"""Scores by name, artifacts, and of each run the score that judges it and the limits that it breaks."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

NEWEST = "(SELECT {column} FROM sweeper_outcomes WHERE run_id = sweeper_runs.id ORDER BY tokens DESC LIMIT 1)"


def upgrade() -> None:
    op.add_column("sweeper_runs", sa.Column("score", sa.Float(precision=53), nullable=True))
    op.add_column("sweeper_runs", sa.Column("score_stderr", sa.Float(precision=53), nullable=True))
    op.add_column("sweeper_runs", sa.Column("infeasible", sa.Text(), nullable=False, server_default=""))
    # Until now every study was judged by the outcome.
    score, stderr = NEWEST.format(column="val_bpb"), NEWEST.format(column="val_bpb_stderr")
    op.execute(f"UPDATE sweeper_runs SET score = {score}, score_stderr = {stderr} WHERE state = 'complete'")
    op.create_table(
        "sweeper_scores",
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=32), nullable=False),
        sa.Column("tokens", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("seconds", sa.Float(precision=53), nullable=False),
        sa.Column("val_loss", sa.Float(precision=53), nullable=False),
        sa.Column("val_bpb", sa.Float(precision=53), nullable=False),
        sa.Column("val_tokens", sa.BigInteger(), nullable=False),
        sa.Column("val_bpb_stderr", sa.Float(precision=53), nullable=True),
        sa.Column("eval_seconds", sa.Float(precision=53), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["sweeper_runs.id"]),
        sa.PrimaryKeyConstraint("run_id", "name", "tokens"),
    )
    op.create_table(
        "sweeper_exports",
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("scheme", sa.String(length=32), nullable=False),
        sa.Column("codec", sa.String(length=32), nullable=False),
        sa.Column("artifact_bytes", sa.BigInteger(), nullable=False),
        sa.Column("code_bytes", sa.BigInteger(), nullable=False),
        sa.Column("raw_bytes", sa.BigInteger(), nullable=False),
        sa.Column("val_bpb", sa.Float(precision=53), nullable=False),
        sa.Column("gap", sa.Float(precision=53), nullable=False),
        sa.Column("export_seconds", sa.Float(precision=53), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["sweeper_runs.id"]),
        sa.PrimaryKeyConstraint("run_id"),
    )


def downgrade() -> None:
    op.drop_table("sweeper_exports")
    op.drop_table("sweeper_scores")
    for column in ("infeasible", "score_stderr", "score"):
        op.drop_column("sweeper_runs", column)
