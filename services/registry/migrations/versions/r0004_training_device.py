"""What workers say of the speed of their devices."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the column."""
    op.add_column("worker", sa.Column("training_device", sa.LargeBinary()))


def downgrade() -> None:
    """Removes it again."""
    with op.batch_alter_table("worker") as worker:
        worker.drop_column("training_device")
