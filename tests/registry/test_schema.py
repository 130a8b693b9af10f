"""Revisions: they lead to what the models say, and lose nothing on the way."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from click.testing import CliRunner
from sqlalchemy import text
from sqlmodel import SQLModel, select

from services.registry import schema
from services.registry.database import Database, parse_url
from services.registry.models import Line
from splatmill.cli import main
from splatmill.errors import Reason, SplatmillError
from splatmill.v1 import reconstruction_pb2 as pb
from tests.registry.conftest import BOTH_DATABASES

_OLD = Path(__file__).parent / "schema_without_revisions.sql"
"""What the service of before wrote: a completed job, one that was begun and given back, one that waits."""
_TABLES = ("job", "task", "event", "log_line", "image", "artifact")


@pytest.fixture
def url(database_url, tmp_path):
    return database_url or f"sqlite:///{tmp_path}/some folder/test.db"


def old_file(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "splatmill.db"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript(_OLD.read_text())
    return path


def rows(path: Path) -> dict[str, list[tuple[object, ...]]]:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return {table: connection.execute(f"SELECT * FROM {table}").fetchall() for table in _TABLES}


@BOTH_DATABASES
def test_the_revisions_lead_to_the_models(url):
    database = Database(url)
    assert database.upgrade() == (None, schema.head())
    assert database.upgrade() == (schema.head(), schema.head())
    with database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), SQLModel.metadata) == []
    database.close()


@BOTH_DATABASES
def test_back_and_forth(url):
    database = Database(url)
    database.upgrade()
    with schema._alone(database.engine) as connection:
        config = schema._config()
        config.attributes["connection"] = connection
        command.downgrade(config, "base")
    assert schema.revision(database.engine) is None
    assert database.upgrade() == (None, schema.head())
    database.close()


@BOTH_DATABASES
def test_many_at_once(url):
    """Each thread is a replica with connections of its own; one of them does the work."""
    databases = [Database(url) for _ in range(6)]
    together = threading.Barrier(len(databases))
    results, errors = [], []

    def upgrade(database: Database) -> None:
        together.wait()
        try:
            results.append(database.upgrade())
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=upgrade, args=(database,)) for database in databases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert [before for before, _ in results].count(None) == 1
    with databases[0].transaction() as session:
        assert len(session.exec(select(Line)).all()) == 1
    for database in databases:
        database.close()


def test_an_old_file_is_taken_over_whole(tmp_path):
    path = old_file(tmp_path)
    before = rows(path)
    assert all(before.values()), "the old file has something in each table"
    database = Database(f"sqlite:///{path}")
    assert database.upgrade() == ("0001", schema.head())
    after = rows(path)
    for table, old in before.items():  # new columns stand behind the old ones
        assert [row[: len(old[0])] for row in after[table]] == old
    with database.transaction() as session:
        assert session.get_one(Line, 1).last_number == 3
        assert not session.execute(text("PRAGMA foreign_key_check")).all()
        assert session.execute(text("PRAGMA foreign_keys")).scalar() == 1
    database.close()


async def test_work_goes_on_with_an_old_file(make_bench, tmp_path):
    old_file(tmp_path / "data")
    bench = await make_bench()
    jobs = {job.title: job for job in (await bench.jobs.ListJobs(pb.ListJobsRequest())).jobs}
    assert jobs["done"].state == pb.JOB_STATE_COMPLETED
    assert jobs["done"].gaussian_count == 7
    task = await bench.lease()
    assert (task.job_id, task.attempt) == (jobs["waits 0"].job_id, 1)
    new = await bench.create()
    assert new.queue_position == 2
    numbers = [
        answer.event.sequence
        async for answer in bench.jobs.WatchJob(pb.WatchJobRequest(job_id=jobs["done"].job_id))
    ]
    assert numbers == list(range(1, jobs["done"].last_sequence + 1))


@BOTH_DATABASES
def test_a_newer_database_is_refused(url):
    database = Database(url)
    database.upgrade()
    with database.transaction() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(SplatmillError, match="9999") as caught:
        database.upgrade()
    assert not caught.value.retryable
    database.close()


@BOTH_DATABASES
def test_a_failing_revision_changes_nothing(url, monkeypatch):
    database = Database(url)
    upgrade = command.upgrade

    def fail_at_the_end(*arguments: object) -> None:
        upgrade(*arguments)
        raise RuntimeError

    monkeypatch.setattr(command, "upgrade", fail_at_the_end)
    with pytest.raises(RuntimeError):
        database.upgrade()
    monkeypatch.undo()
    assert schema.revision(database.engine) is None
    assert database.upgrade() == (None, schema.head())
    database.close()


@pytest.mark.parametrize(
    "text", ["postgres://u:p@h/d", "postgresql://u:p@h/d", "postgresql+psycopg2://u:p@h/d"]
)
def test_one_driver(text):
    url = parse_url(text)
    assert url.drivername == "postgresql+psycopg"
    assert (url.host, url.database, url.password) == ("h", "d", "p")
    assert url.query["connect_timeout"] == "5"
    assert parse_url(text + "?connect_timeout=9&sslmode=require").query["connect_timeout"] == "9"


@pytest.mark.parametrize("text", ["mysql://u:secret@h/d", "nonsense", "oracle+what://u:secret@h/d", "://"])
def test_urls_of_nothing_we_know(text):
    with pytest.raises(SplatmillError) as caught:
        parse_url(text)
    assert caught.value.reason is Reason.INVALID_OPTION
    assert "secret" not in str(caught.value)


def test_a_file_that_is_no_database(tmp_path):
    (tmp_path / "x.db").write_text("this is not a database, but long enough to look at" * 100)
    with pytest.raises(SplatmillError, match="cannot be used") as caught:
        Database(f"sqlite:///{tmp_path}/x.db").upgrade()
    assert not caught.value.retryable
    with pytest.raises(SplatmillError, match="cannot be made"):
        Database(f"sqlite:///{tmp_path}/x.db/below/y.db")


@BOTH_DATABASES
def test_the_command(url):
    def upgrade(*arguments: str) -> str:
        done = CliRunner().invoke(main, ["db", "upgrade", *arguments])
        assert done.exit_code == 0, done.output
        return done.output

    assert "from empty to revision" in upgrade("--database-url", url)
    assert "is up to date" in upgrade("--database-url", url)


def test_the_command_without_the_registry(monkeypatch):
    monkeypatch.setattr("splatmill.cli.database.find_spec", lambda name: None if name == "alembic" else True)
    done = CliRunner().invoke(main, ["db", "upgrade"])
    assert done.exit_code == 1
    assert "missing: alembic" in done.output
    assert "splatmill[client,registry]" in done.output
