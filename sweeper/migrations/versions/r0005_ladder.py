"""Outcomes at smaller budgets than the run's own, from branches that cool down."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("sweeper_outcomes", sa.Column("budget", sa.Float(precision=53), nullable=True))
    seconds = sa.Column("branch_seconds", sa.Float(precision=53), nullable=False, server_default="0")
    op.add_column("sweeper_outcomes", seconds)


def downgrade() -> None:
    op.execute("DELETE FROM sweeper_outcomes WHERE budget IS NOT NULL")  # they would be taken for the run's own
    op.drop_column("sweeper_outcomes", "branch_seconds")
    op.drop_column("sweeper_outcomes", "budget")
