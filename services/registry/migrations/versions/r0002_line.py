"""The line that jobs wait in gets a row of its own, and sizes get 64 bits.

One row that is locked first puts all changes of the line in order on every replica, and
knows the last number given. Files above 2 GiB did not fit PostgreSQL's INTEGER.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_WIDENED = (("job", "queue_number"), ("log_line", "id"), ("image", "size_bytes"), ("artifact", "size_bytes"))


def upgrade() -> None:
    """Makes the line from the jobs that are there."""
    large = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "line",
        sa.Column("id", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("last_number", large, nullable=False),
    )
    op.execute("INSERT INTO line (id, last_number) SELECT 1, COALESCE(MAX(queue_number), 0) FROM job")
    op.drop_table("schema_info")
    _set_type(sa.BigInteger(), "bigint")


def downgrade() -> None:
    """Goes back to the number of the schema."""
    _set_type(sa.Integer(), "integer")
    op.drop_table("line")
    op.create_table(
        "schema_info",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("version", sa.Integer(), nullable=False),
    )
    op.execute("INSERT INTO schema_info (id, version) VALUES (1, 1)")


def _set_type(new: sa.types.TypeEngine[int], of_sequence: str) -> None:
    if op.get_bind().dialect.name == "postgresql":  # SQLite's integers have 64 bits anyway
        for table, column in _WIDENED:
            op.alter_column(table, column, type_=new)
        op.execute(f"ALTER SEQUENCE log_line_id_seq AS {of_sequence}")
