"""The embedded PostgreSQL: private, restartable, and back after it was killed."""

import os
import signal
import stat

import psycopg
import pytest

from portal.local import postgres
from portal.local.postgres import EmbeddedPostgres, PostgresUnavailable


@pytest.fixture
def server(tmp_path):
    made = EmbeddedPostgres(tmp_path / "postgres", durable=False)
    yield made
    made.stop()


def postmaster(server: EmbeddedPostgres) -> int:
    return int((server.data / "postmaster.pid").read_text().split()[0])


def test_it_starts_keeps_its_data_and_its_address_and_stops(server):
    url = server.start()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE kept (id int)")
    server.stop()
    assert not server.is_running()

    assert server.start() == url
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT count(*) FROM kept").fetchone() == (0,)


def test_starting_a_running_server_leaves_it_alone(server):
    server.start()
    before = postmaster(server)
    server.start()
    assert postmaster(server) == before


def test_it_comes_back_after_kill_9(server):
    url = server.start()
    os.kill(postmaster(server), signal.SIGKILL)
    assert server.start() == url
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_nobody_gets_in_without_the_password(server):
    url = server.start()
    password = (server.root / "password").read_text()
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(url.replace(password, "wrong"))


def test_its_files_are_its_owners_alone(server):
    server.start()
    assert stat.S_IMODE(server.root.stat().st_mode) == 0o700
    assert stat.S_IMODE((server.root / "password").stat().st_mode) == 0o600


def test_a_port_taken_in_the_meantime_is_replaced(server, monkeypatch):
    old = server.start()
    server.stop()
    monkeypatch.setattr(postgres, "is_free", lambda port: False)
    assert server.start() != old


def test_an_interrupted_first_start_is_made_again(server):
    server.root.mkdir()
    server.data.mkdir()
    (server.data / "half").write_text("")
    assert server.start()


def test_a_missing_package_is_explained(monkeypatch):
    monkeypatch.setattr(postgres, "find_spec", lambda name: None)
    with pytest.raises(PostgresUnavailable, match="set DATABASE_URL"):
        postgres.binary_dir()


def test_a_server_that_does_not_start_shows_its_log(server, monkeypatch):
    server.start()
    server.stop()
    monkeypatch.setattr(postgres, "START_ATTEMPTS", 1)
    with (server.data / "postgresql.conf").open("a") as config:
        config.write("shared_buffers = nonsense\n")
    with pytest.raises(PostgresUnavailable, match="nonsense"):
        server.start()
    (server.data / "postgresql.conf").write_text("")


def test_the_socket_directory_is_short_and_gone_afterwards(server):
    server.start()
    directory = server._socket_dir()
    assert len(str(directory)) < 60
    server.stop()
    assert not directory.exists()
