"""The environment: what is wrong is said, all of it, with the variable's name and the way out."""

import base64

import pytest

from portal import env
from portal.database import database_config
from portal.env import LogLevel, Process, SettingsError

SEED = base64.b64encode(bytes(range(32))).decode()


def read(tmp_path, **variables: str) -> env.Environment:
    return env.read({"SLIPWAY_STATE_DIR": str(tmp_path), **variables})


def problems(tmp_path, **variables: str) -> str:
    with pytest.raises(SettingsError) as caught:
        read(tmp_path, **variables)
    return str(caught.value)


def test_defaults_are_safe_and_local(tmp_path):
    found = env.read({}, checkout=tmp_path)
    assert not found.debug
    assert found.process is Process.CLI
    assert found.state_dir == tmp_path / ".slipway"
    assert found.artifact_dir == tmp_path / ".slipway" / "artifacts"
    assert found.artifact_max_bytes == 2 * 1024**3
    assert found.is_loopback
    assert not found.is_https
    assert (found.secret_key, found.signing_key, found.database_url) == ("", b"", "")


@pytest.mark.parametrize(
    ("variable", "value", "sentence"),
    [
        ("SLIPWAY_DEBUG", "maybe", "SLIPWAY_DEBUG is 'maybe': set it to true or false."),
        ("SLIPWAY_HEARTBEAT_SECONDS", "0", "set it to a whole number of 1 or more."),
        ("SLIPWAY_ARTIFACT_MAX_BYTES", "2GB", "SLIPWAY_ARTIFACT_MAX_BYTES is '2GB'"),
        ("SLIPWAY_WORKER_PROCESSES", "-1", "SLIPWAY_WORKER_PROCESSES is '-1'"),
        ("SLIPWAY_MAX_ACTIVE_ROLLOUTS", "0", "set it to a whole number of 1 or more."),
        ("SLIPWAY_PUBLIC_URL", "slipway.example.com", "set it to http(s)://HOST[:PORT], without a path."),
        ("SLIPWAY_PUBLIC_URL", "https://example.com/slipway", "without a path."),
        ("SLIPWAY_PROCESS", "server", "set it to one of: web, worker, clock, cli."),
        ("SLIPWAY_VAULT_PATH_TEMPLATE", "{region}/{service}", "{team}, {service} and {environment}"),
        ("SLIPWAY_VAULT_PATH_TEMPLATE", "../{service}", "a path without outer slashes"),
        ("SLIPWAY_VAULT_PATH_TEMPLATE", "{team}-{service}", "at most one of"),
        ("SLIPWAY_LOG_FORMAT", "xml", "set it to one of: auto, json, console."),
        ("SLIPWAY_LOG_LEVEL", "loud", "set it to one of: debug, info, warning, error."),
        ("SLIPWAY_SIGNING_KEY", "c2hvcnQ=", "SLIPWAY_SIGNING_KEY is not 32 bytes in base64"),
        ("SLIPWAY_SIGNING_KEY", "not base64!", "SLIPWAY_SIGNING_KEY is not 32 bytes in base64"),
        ("SLIPWAY_SECRET_KEY_FILE", "/nowhere/key", "/nowhere/key cannot be read (No such file"),
    ],
)
def test_a_wrong_value_is_named_with_what_to_do(tmp_path, variable, value, sentence):
    assert sentence in problems(tmp_path, **{variable: value})


def test_everything_that_is_wrong_is_said_at_once(tmp_path):
    said = problems(tmp_path, SLIPWAY_DEBUG="maybe", SLIPWAY_LOG_FORMAT="xml")
    assert "SLIPWAY_DEBUG" in said
    assert "SLIPWAY_LOG_FORMAT" in said


def test_a_secret_comes_from_its_file(tmp_path):
    (tmp_path / "key").write_text("from a file\n")
    assert read(tmp_path, SLIPWAY_SECRET_KEY_FILE=str(tmp_path / "key")).secret_key == "from a file"


def test_a_secret_given_twice_is_refused(tmp_path):
    (tmp_path / "key").write_text("one")
    said = problems(tmp_path, SLIPWAY_SECRET_KEY="two", SLIPWAY_SECRET_KEY_FILE=str(tmp_path / "key"))
    assert "SLIPWAY_SECRET_KEY and SLIPWAY_SECRET_KEY_FILE are both set: keep one of them." in said


def test_the_environment_goes_before_the_state_directory(tmp_path):
    (tmp_path / "secret-key").write_text("kept")
    (tmp_path / "signing-key").write_text(SEED)
    assert read(tmp_path).secret_key == "kept"
    assert read(tmp_path).signing_key == bytes(range(32))
    assert read(tmp_path, SLIPWAY_SECRET_KEY="given").secret_key == "given"


def test_secrets_are_not_in_the_repr(tmp_path):
    found = read(
        tmp_path,
        SLIPWAY_SECRET_KEY="top-secret-1",
        SLIPWAY_SIGNING_KEY=SEED,
        SLIPWAY_VAULT_SECRET_ID="top-secret-2",
        DATABASE_URL="postgresql://u:top-secret-3@h/db",
    )
    assert "top-secret" not in repr(found)
    assert str(bytes(range(32))) not in repr(found)


def test_agents_are_sent_to_the_same_vault_unless_told_otherwise(tmp_path):
    assert read(tmp_path, SLIPWAY_VAULT_ADDR="https://v:8200/").vault_agent_addr == "https://v:8200"
    other = read(tmp_path, SLIPWAY_VAULT_ADDR="https://v", SLIPWAY_VAULT_AGENT_ADDR="https://outside")
    assert other.vault_agent_addr == "https://outside"


def test_where_secrets_lie_is_decided_unless_it_is_set_to_nothing(tmp_path):
    assert read(tmp_path).vault_path_template == "{team}/{service}"
    assert read(tmp_path, SLIPWAY_VAULT_PATH_TEMPLATE="").vault_path_template == ""
    other = read(tmp_path, SLIPWAY_VAULT_PATH_TEMPLATE="apps/{environment}/{service}")
    assert other.vault_path_template == "apps/{environment}/{service}"


def test_the_mount_is_read_without_outer_slashes(tmp_path):
    """The secret server names it so when it says what it wrapped."""
    assert read(tmp_path, SLIPWAY_VAULT_MOUNT="/kv/").vault_mount == "kv"


def test_words_are_read_in_any_case(tmp_path):
    found = read(tmp_path, SLIPWAY_LOG_LEVEL="Debug", SLIPWAY_DEBUG="YES", SLIPWAY_PROCESS="Web")
    assert (found.log_level, found.debug, found.process) == (LogLevel.DEBUG, True, Process.WEB)


def test_only_the_web_process_pools_connections(tmp_path):
    url = "postgresql://someone:p%40ss@db.example:5433/slipway?sslmode=require"
    web = database_config(read(tmp_path, DATABASE_URL=url, SLIPWAY_PROCESS="web"))
    worker = database_config(read(tmp_path, DATABASE_URL=url, SLIPWAY_PROCESS="worker"))

    assert "pool" in web["OPTIONS"]
    assert "pool" not in worker["OPTIONS"]
    assert (web["USER"], web["PASSWORD"], web["HOST"], web["PORT"]) == (
        "someone",
        "p@ss",
        "db.example",
        "5433",
    )
    assert web["OPTIONS"]["sslmode"] == "require"
    assert "statement_timeout=15000" in worker["OPTIONS"]["options"]


def test_commands_by_hand_have_no_statement_timeout(tmp_path):
    config = database_config(read(tmp_path, DATABASE_URL="postgresql://h/db"))
    assert "options" not in config["OPTIONS"]


def test_another_kind_of_database_is_refused(tmp_path):
    with pytest.raises(SettingsError, match="DATABASE_URL is not a PostgreSQL address"):
        database_config(read(tmp_path, DATABASE_URL="mysql://h/db"))
