"""Who owns a job and when it is whose turn; keys, workers, errors and times.

Jobs that wait keep their order: each gets its number as its turn.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_NEW_TABLES = ("stage_time", "error_log", "worker", "gpu_usage", "api_key")
_JOB_COLUMNS = (
    "owner", "rank", "turn", "shared", "share_expires_at", "expired", "trace", "told_position",
    "expected_seconds",
)  # fmt: skip


def upgrade() -> None:
    """Adds columns and tables."""
    large = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.add_column("line", sa.Column("turn", large, nullable=False, server_default="0"))
    op.add_column("line", sa.Column("moved", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("line", sa.Column("database_id", sa.String(), nullable=False, server_default=""))
    op.add_column("job", sa.Column("owner", sa.String(8), nullable=False, server_default=""))
    op.add_column("job", sa.Column("rank", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("job", sa.Column("turn", large, nullable=False, server_default="0"))
    op.add_column("job", sa.Column("shared", sa.Boolean(), nullable=False, server_default=sa.true()))
    op.add_column("job", sa.Column("share_expires_at", sa.Float()))
    op.add_column("job", sa.Column("expired", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("job", sa.Column("trace", sa.String(55), nullable=False, server_default=""))
    op.add_column("job", sa.Column("told_position", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("job", sa.Column("expected_seconds", sa.Float()))
    op.add_column("task", sa.Column("device", sa.String(), nullable=False, server_default=""))
    op.create_index("ix_job_owner", "job", ["owner"])
    op.create_index("job_by_turn", "job", ["state", "rank", "turn", "queue_number"])
    op.execute("UPDATE job SET turn = queue_number")
    op.execute("UPDATE line SET turn = last_number")
    _create_access(large)
    _create_history(large)


def _create_access(large: sa.types.TypeEngine[int]) -> None:
    op.create_table(
        "api_key",
        sa.Column("key_id", sa.String(8), primary_key=True),
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("secret_hash", sa.LargeBinary(), nullable=False),
        sa.Column("scopes", sa.String(), nullable=False),
        sa.Column("max_waiting_jobs", sa.Integer()),
        sa.Column("max_bytes", large),
        sa.Column("max_gpu_minutes", sa.Float()),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("expires_at", sa.Float()),
        sa.Column("revoked_at", sa.Float()),
        sa.Column("last_used_at", sa.Float()),
    )
    op.create_table(
        "gpu_usage",
        sa.Column("owner", sa.String(8), primary_key=True),
        sa.Column("day", sa.String(10), primary_key=True),
        sa.Column("seconds", sa.Float(), nullable=False),
    )


def _create_history(large: sa.types.TypeEngine[int]) -> None:
    op.create_table(
        "worker",
        sa.Column("worker_id", sa.String(128), primary_key=True),
        sa.Column("stages", sa.String(), nullable=False),
        sa.Column("device", sa.String(), nullable=False),
        sa.Column("first_seen_at", sa.Float(), nullable=False),
        sa.Column("last_seen_at", sa.Float(), nullable=False),
    )
    op.create_index("ix_worker_last_seen_at", "worker", ["last_seen_at"])
    op.create_table(
        "error_log",
        sa.Column("id", large, primary_key=True),
        sa.Column("job_id", sa.String(), sa.ForeignKey("job.job_id"), nullable=False),
        sa.Column("stage", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("worker_id", sa.String(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("error", sa.LargeBinary(), nullable=False),
    )
    op.create_index("ix_error_log_job_id", "error_log", ["job_id"])
    op.create_index("ix_error_log_created_at", "error_log", ["created_at"])
    op.create_table(
        "stage_time",
        sa.Column("id", large, primary_key=True),
        sa.Column("stage", sa.Integer(), nullable=False),
        sa.Column("device", sa.String(), nullable=False),
        sa.Column("photos", sa.Integer(), nullable=False),
        sa.Column("megapixels", sa.Float(), nullable=False),
        sa.Column("iterations", sa.Float(), nullable=False),
        sa.Column("variant", sa.String(), nullable=False),
        sa.Column("seconds", sa.Float(), nullable=False),
        sa.Column("finished_at", sa.Float(), nullable=False),
    )
    op.create_index("ix_stage_time_stage", "stage_time", ["stage"])


def downgrade() -> None:
    """Removes them again."""
    for table in _NEW_TABLES:
        op.drop_table(table)
    op.drop_index("job_by_turn", "job")
    op.drop_index("ix_job_owner", "job")
    with op.batch_alter_table("job") as job:
        for column in _JOB_COLUMNS:
            job.drop_column(column)
    with op.batch_alter_table("task") as task:
        task.drop_column("device")
    with op.batch_alter_table("line") as line:
        line.drop_column("turn")
        line.drop_column("moved")
        line.drop_column("database_id")
