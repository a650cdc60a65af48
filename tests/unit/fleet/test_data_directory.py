"""The data directory: one owner, kept keys, private files."""

import os
import stat
import subprocess

import pytest
from cryptography.fernet import Fernet

from services.fleet.data_directory import DataDirectory, FleetState
from services.fleet.errors import DataDirectoryError, DataDirectoryInUseError

STATE = FleetState(
    pid=1,
    started_at_seconds=2,
    up=True,
    gateway_urls=("http://127.0.0.1:8080",),
    simulator_url="http://127.0.0.1:1",
    nats_url="nats://127.0.0.1:2",
    nats_monitor_url="http://127.0.0.1:3",
    database_url="postgresql://tickfleet:secret@127.0.0.1:4/tickfleet",
    jwt_secret="secret",
    jwt_issuer="tickfleet",
    jwt_audience="tickfleet-ws",
    processes=(),
)


@pytest.fixture
def directory(tmp_path):
    return DataDirectory(tmp_path / "data")


def test_keys_are_made_once_and_usable(directory):
    with directory.owned(0):
        first = directory.secrets()
        assert directory.secrets() == first

    assert directory.kept_secrets() == first
    assert Fernet(first.account_encryption_key).encrypt(b"session")
    assert first.jwt_secret not in repr(first)


def test_files_with_secrets_are_private(directory):
    with directory.owned(0):
        directory.secrets()
        directory.write_state(STATE)
        modes = {
            file.name: stat.S_IMODE(file.stat().st_mode)
            for file in (directory.path, directory.secrets_file, directory.state_file)
        }

    assert modes == {"data": 0o700, "secrets.json": 0o600, "fleet.json": 0o600}


def test_second_owner_is_refused_with_the_pid_of_the_first(directory):
    with (
        directory.owned(0),
        pytest.raises(DataDirectoryInUseError, match=rf"pid {os.getpid()}.*--data-dir"),
        directory.owned(0),
    ):
        pass


def test_directory_is_free_again_after_its_owner(directory):
    with directory.owned(0):
        assert directory.is_owned()
    assert not directory.is_owned()
    with directory.owned(0):
        pass


def test_lock_of_a_dead_owner_is_awaited_while_its_guardian_clears_up(directory):
    with directory.owned(0) as lock:
        # What holds the inherited lock stands for the guardian.
        guardian = subprocess.Popen(
            ["sleep", "0.4"],
            pass_fds=(lock,),
        )
        dead = subprocess.Popen(["true"])
        dead.wait()
        os.pwrite(lock, f"{dead.pid}\n".encode(), 0)
        os.ftruncate(lock, len(f"{dead.pid}\n"))

    with pytest.raises(DataDirectoryInUseError), directory.owned(0):
        pass
    with directory.owned(20):
        assert guardian.wait() == 0


def test_state_is_read_only_while_the_fleet_runs(directory):
    with directory.owned(0):
        directory.write_state(STATE)
        assert directory.running_state() == STATE
    assert directory.running_state() is None


def test_state_without_a_fleet_is_no_state(directory):
    assert directory.running_state() is None
    assert directory.kept_secrets() is None


def test_damaged_file_is_an_error_that_names_it(directory):
    with directory.owned(0):
        directory.secrets_file.write_text("{")
        with pytest.raises(DataDirectoryError, match=r"secrets\.json is damaged"):
            directory.secrets()


def test_directory_that_cannot_be_made_is_an_error_that_names_the_option(tmp_path):
    (tmp_path / "file").write_text("")

    with (
        pytest.raises(DataDirectoryError, match="--data-dir"),
        DataDirectory(tmp_path / "file" / "data").owned(0),
    ):
        pass
