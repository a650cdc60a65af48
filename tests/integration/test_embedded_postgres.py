"""The embedded PostgreSQL server: safe first start, any identity, data kept when killed."""

import os
import shutil
import signal
import stat
import tempfile
from pathlib import Path

import asyncpg
import pytest

from services.fleet.child import Identity
from services.fleet.errors import ServerPreparationError, UnsupportedPlatformError
from services.fleet.loopback import free_ports
from services.fleet.postgres_server import PostgresServer, usable_identity
from services.fleet.supervisor import ChildState, running
from tests.unit.fleet.waiting import process_status, until

pytestmark = pytest.mark.integration

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root changes its identity")


async def prepared(
    directory: Path, identity: Identity | None = None, *, durable: bool = False
) -> PostgresServer:
    server = PostgresServer(
        directory=directory,
        port=free_ports(1)[0],
        identity=identity or await usable_identity(),
        durable=durable,
    )
    await server.prepare()
    return server


async def query(server: PostgresServer, *statements: str) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(server.url, timeout=5)
    try:
        rows: list[asyncpg.Record] = []
        for statement in statements:
            rows = await connection.fetch(statement)
        return rows
    finally:
        await connection.close(timeout=5)


async def test_first_start_makes_a_database_that_only_the_password_opens(tmp_path):
    server = await prepared(tmp_path / "postgres")
    async with running(server.child()):
        rows = await query(server, "SELECT current_database(), version()")
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(
                f"postgresql://tickfleet:wrong@127.0.0.1:{server.port}/tickfleet", timeout=5
            )

    assert rows[0][0] == "tickfleet"
    assert rows[0][1].startswith("PostgreSQL 18")
    assert stat.S_IMODE(server.password_file.stat().st_mode) == 0o600
    assert not (server.data_directory / "postmaster.pid").exists()


async def test_second_start_finds_the_rows_of_the_first(tmp_path):
    first = await prepared(tmp_path)
    async with running(first.child()):
        await query(first, "CREATE TABLE kept (n int)", "INSERT INTO kept VALUES (7)")

    second = await prepared(tmp_path)
    async with running(second.child()):
        rows = await query(second, "SELECT n FROM kept")

    assert [row["n"] for row in rows] == [7]


async def test_killed_server_returns_on_its_port_with_every_row(tmp_path):
    server = await prepared(tmp_path, durable=True)
    async with running(server.child()) as supervisor:
        await query(
            server, "CREATE TABLE kept (n int)", "INSERT INTO kept SELECT generate_series(1, 1000)"
        )
        pid = supervisor.status["postgres"].pid
        assert pid is not None

        os.kill(pid, signal.SIGKILL)
        await until(
            lambda: (
                supervisor.status["postgres"].restarts
                and supervisor.status["postgres"].state is ChildState.READY
            )
        )
        rows = await query(server, "SELECT count(*) AS n FROM kept")

    assert rows[0]["n"] == 1000


async def test_stop_does_not_wait_for_a_client_that_stays(tmp_path):
    server = await prepared(tmp_path)
    async with running(server.child()) as supervisor:
        idle = await asyncpg.connect(server.url, timeout=5)

    assert supervisor.status["postgres"].last_exit == 0
    idle.terminate()


async def test_initdb_that_was_killed_leaves_nothing_half_made(tmp_path):
    half_made = tmp_path / "data.init"
    half_made.mkdir()
    (half_made / "PG_VERSION").write_text("18\n")

    server = await prepared(tmp_path)

    assert not half_made.exists()
    assert (server.data_directory / "global").is_dir()


async def test_cluster_of_another_version_is_refused_with_the_remedy(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "PG_VERSION").write_text("12\n")

    with pytest.raises(ServerPreparationError, match=r"PostgreSQL 12.*--data-dir"):
        await prepared(tmp_path, Identity.SAME)


async def test_cluster_without_its_password_is_refused(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "PG_VERSION").write_text("18\n")

    with pytest.raises(ServerPreparationError, match="password is missing"):
        await prepared(tmp_path, Identity.SAME)


@needs_root
async def test_root_runs_the_server_as_somebody_else(tmp_path):
    server = await prepared(tmp_path)
    assert server.identity is not Identity.SAME
    async with running(server.child()) as supervisor:
        status = process_status(supervisor.status["postgres"].pid)

    assert int(status["CapEff"], 16) == 0


@pytest.fixture
def enterable_folder():
    """A folder that everybody may enter, which those of tmp_path are not."""
    directory = Path(tempfile.mkdtemp(prefix="tickfleet-"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


@needs_root
async def test_root_without_user_namespaces_runs_the_server_as_nobody(enterable_folder):
    server = await prepared(enterable_folder / "postgres", Identity.NOBODY)
    async with running(server.child()) as supervisor:
        status = process_status(supervisor.status["postgres"].pid)
        rows = await query(server, "SELECT 1 AS one")

    # The next start may find namespaces allowed.
    again = await prepared(enterable_folder / "postgres")
    async with running(again.child()):
        await query(again, "SELECT 1")

    assert status["Uid"].split()[1] != "0"
    assert rows[0]["one"] == 1


@needs_root
async def test_folder_that_nobody_cannot_enter_is_an_error_that_names_it(tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)

    with pytest.raises(UnsupportedPlatformError, match="user nobody cannot enter"):
        await prepared(closed / "postgres", Identity.NOBODY)
