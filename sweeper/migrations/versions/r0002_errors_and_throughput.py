"""Standard errors of validations and scores; how fast devices train."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for table in ("sweeper_points", "sweeper_outcomes"):
        op.add_column(table, sa.Column("val_bpb_stderr", sa.Float(precision=53), nullable=True))
    op.create_table(
        "sweeper_throughput",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("device_name", sa.String(length=255), nullable=False),
        sa.Column("devices", sa.Integer(), nullable=False),
        sa.Column("num_layers", sa.Integer(), nullable=False),
        sa.Column("model_dim", sa.Integer(), nullable=False),
        sa.Column("num_heads", sa.Integer(), nullable=False),
        sa.Column("num_kv_heads", sa.Integer(), nullable=False),
        sa.Column("mlp_mult", sa.Float(precision=53), nullable=False),
        sa.Column("vocab_size", sa.Integer(), nullable=False),
        sa.Column("tie_embeddings", sa.Boolean(), nullable=False),
        sa.Column("seq_len", sa.Integer(), nullable=False),
        sa.Column("batch_tokens", sa.BigInteger(), nullable=False),
        sa.Column("options", sa.String(length=400), nullable=False),
        sa.Column("tokens_per_second", sa.Float(precision=53), nullable=False),
        sa.Column("seconds", sa.Float(precision=53), nullable=False),
        sa.Column("setup_seconds", sa.Float(precision=53), nullable=True),
        sa.Column("peak_memory_bytes", sa.BigInteger(), nullable=False),
        sa.Column("source", sa.String(length=16), nullable=False),
        sa.Column("measured_at", sa.Float(precision=53), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint(
            "device_name", "devices", "num_layers", "model_dim", "num_heads", "num_kv_heads", "mlp_mult",
            "vocab_size", "tie_embeddings", "seq_len", "batch_tokens", "options", name="uq_sweeper_throughput_shape",
        ),
    )  # fmt: skip


def downgrade() -> None:
    op.drop_table("sweeper_throughput")
    for table in ("sweeper_outcomes", "sweeper_points"):
        op.drop_column(table, "val_bpb_stderr")
