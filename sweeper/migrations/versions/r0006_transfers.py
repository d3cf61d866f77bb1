"""Of each promotion: whose values it runs, and what the laws made of it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    candidate = sa.Column("candidate", sa.String(length=16), nullable=False, server_default="copied")
    op.add_column("sweeper_promotions", candidate)
    op.add_column("sweeper_promotions", sa.Column("transfer", sa.JSON(), nullable=True))
    op.execute("UPDATE sweeper_promotions SET candidate = 'own' WHERE trial_number IS NULL")


def downgrade() -> None:
    op.drop_column("sweeper_promotions", "transfer")
    op.drop_column("sweeper_promotions", "candidate")
