"""Promotions of a plan's own values, of no trial; targets of an outcome, where not every position has one."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("sweeper_promotions") as table:
        table.alter_column("trial_number", existing_type=sa.Integer(), nullable=True)
    op.add_column("sweeper_outcomes", sa.Column("targets", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    op.drop_column("sweeper_outcomes", "targets")
    op.execute("DELETE FROM sweeper_promotions WHERE trial_number IS NULL")
    with op.batch_alter_table("sweeper_promotions") as table:
        table.alter_column("trial_number", existing_type=sa.Integer(), nullable=False)
