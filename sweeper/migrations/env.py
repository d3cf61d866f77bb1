"""Alembic's entry: runs the revisions on the connection that `sweeper.storage.migrate` hands over."""

from __future__ import annotations

from alembic import context

from sweeper.storage import VERSION_TABLE
from sweeper.tables import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    version_table=VERSION_TABLE,
)
with context.begin_transaction():
    context.run_migrations()
