"""The first tables: jobs, their tasks, events, log lines, photos and files."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Makes the tables."""
    op.create_table(
        "schema_info",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("version", sa.Integer(), nullable=False),
    )
    op.create_table(
        "job",
        sa.Column("job_id", sa.String(8), primary_key=True),
        sa.Column("pub_key", sa.String(10), nullable=False, unique=True),
        sa.Column("request_id", sa.String(64), unique=True),
        sa.Column("state", sa.Integer(), nullable=False),
        sa.Column("title", sa.String(), nullable=False),
        sa.Column("options", sa.LargeBinary(), nullable=False),
        sa.Column("resumable", sa.Boolean(), nullable=False),
        sa.Column("hold", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("touched_at", sa.Float(), nullable=False),
        sa.Column("submitted_at", sa.Float()),
        sa.Column("started_at", sa.Float()),
        sa.Column("finished_at", sa.Float()),
        sa.Column("queue_number", sa.Integer(), nullable=False),
        sa.Column("last_sequence", sa.Integer(), nullable=False),
        sa.Column("error", sa.LargeBinary()),
    )
    op.create_index("job_by_state", "job", ["state", "queue_number"])
    _create_task()
    _create_what_belongs_to_jobs()
    op.execute("INSERT INTO schema_info (id, version) VALUES (1, 1)")


def _create_task() -> None:
    op.create_table(
        "task",
        sa.Column("id", sa.Integer(), primary_key=True),
        _job_id(),
        sa.Column("stage", sa.Integer(), nullable=False),
        sa.Column("state", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("starts", sa.Integer(), nullable=False),
        sa.Column("lease_token", sa.String()),
        sa.Column("lease_expires_at", sa.Float()),
        sa.Column("not_before", sa.Float(), nullable=False),
        sa.Column("worker_id", sa.String(), nullable=False),
        sa.Column("started_at", sa.Float()),
        sa.Column("finished_at", sa.Float()),
        sa.Column("progress", sa.LargeBinary()),
        sa.Column("result", sa.LargeBinary()),
        sa.UniqueConstraint("job_id", "stage"),
    )
    op.create_index("ix_task_job_id", "task", ["job_id"])
    op.create_index("ix_task_lease_token", "task", ["lease_token"])
    op.create_index("task_by_state", "task", ["state", "stage"])


def _create_what_belongs_to_jobs() -> None:
    op.create_table(
        "event",
        _job_id(primary_key=True),
        sa.Column("sequence", sa.Integer(), primary_key=True),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
    )
    op.create_table(
        "log_line",
        sa.Column("id", sa.Integer(), primary_key=True),
        _job_id(),
        sa.Column("text", sa.String(), nullable=False),
    )
    op.create_index("ix_log_line_job_id", "log_line", ["job_id"])
    op.create_table(
        "image",
        _job_id(primary_key=True),
        sa.Column("filename", sa.String(255), primary_key=True),
        sa.Column("folded_name", sa.String(), nullable=False),
        sa.Column("size_bytes", sa.Integer(), nullable=False),
        sa.Column("sha256", sa.LargeBinary(), nullable=False),
        sa.Column("width", sa.Integer(), nullable=False),
        sa.Column("height", sa.Integer(), nullable=False),
    )
    op.create_table(
        "artifact",
        _job_id(primary_key=True),
        sa.Column("name", sa.String(), primary_key=True),
        sa.Column("stage", sa.Integer(), nullable=False),
        sa.Column("size_bytes", sa.Integer(), nullable=False),
        sa.Column("sha256", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
    )


def _job_id(primary_key: bool = False) -> sa.Column[str]:
    return sa.Column(
        "job_id", sa.String(), sa.ForeignKey("job.job_id"), primary_key=primary_key, nullable=False
    )


def downgrade() -> None:
    """Removes all tables."""
    for table in ("artifact", "image", "log_line", "event", "task", "job", "schema_info"):
        op.drop_table(table)
