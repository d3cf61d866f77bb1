"""Alembic migrations of our tables.  Optuna migrates its own; the two never touch each other's."""
