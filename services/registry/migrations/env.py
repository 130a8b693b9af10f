"""Run by Alembic: revisions over the connection that ``services.registry.schema`` hands in."""

from __future__ import annotations

from alembic import context

from services.registry.models import Line

# Batches rewrite a table where SQLite cannot alter it.
context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Line.metadata,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
