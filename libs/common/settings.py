"""Settings: read once from environment, `.env` and secret files, checked whole, printed safely."""

import base64
import os
import socket
from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from dotenv import dotenv_values
from pydantic import Field, SecretStr, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from libs.common.errors import FatalError

Port = Annotated[int, Field(ge=1, le=65_535)]


class SettingsError(FatalError):
    """The settings cannot be used; each problem names its variable and what would be right."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("settings are not usable:\n  " + "\n  ".join(problems))
        self.problems = problems


class Environment(StrEnum):
    """Where a process runs; production refuses insecure combinations."""

    DEV = "dev"
    TEST = "test"
    STAGING = "staging"
    PRODUCTION = "production"


class SecretFileSource(PydanticBaseSettingsSource):
    """Reads `NAME` from the file that `NAME_FILE` names, as Docker and Kubernetes mount secrets."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Give the content of the file for one field, or None."""
        del field
        path = os.environ.get(f"{field_name.upper()}_FILE")
        if not path:
            return None, field_name, False
        try:
            return Path(path).read_text(encoding="utf-8").strip(), field_name, False
        except OSError as error:
            problem = f"{field_name.upper()}_FILE: cannot read {path}: {error.strerror}"
            raise SettingsError([problem]) from error

    def __call__(self) -> dict[str, Any]:
        """Give all fields that have a secret file."""
        values = {}
        fields = self.settings_cls.model_fields
        for name, field in fields.items():
            if f"{name}_file" in fields:
                # NAME_FILE is a setting of its own and names something else than a secret.
                continue
            value, key, _ = self.get_field_value(field, name)
            if value is not None:
                values[key] = value
        return values


class BaseServiceSettings(BaseSettings):
    """What every process has.

    Sources, strongest first: arguments, environment, `<NAME>_FILE`, `.env`, defaults.

    Attributes:
        environment: `dev`, `test`, `staging` or `production`.
        worker_id: Unique name of this process in leases, logs and metrics.
        log_level: `debug`, `info`, `warning` or `error`.
        log_format: `json` for machines, `console` for people.
        health_host: Where the health page listens.
        health_port: Port of `/livez`, `/readyz` and `/metrics`.
        stop_deadline_seconds: A process that has not stopped by then after SIGTERM is left at once.
    """

    model_config = SettingsConfigDict(env_file=".env", env_file_encoding="utf-8", extra="ignore")

    environment: Environment = Environment.DEV
    worker_id: str = Field(
        default_factory=lambda: f"{socket.gethostname()}-{os.getpid()}", min_length=1, max_length=64
    )
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "console"] = "json"
    health_host: str = "127.0.0.1"
    health_port: Port = 9100
    stop_deadline_seconds: float = Field(default=10.0, gt=0, le=300)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Put secret files between the environment and `.env`."""
        del file_secret_settings
        return init_settings, env_settings, SecretFileSource(settings_cls), dotenv_settings

    @property
    def is_production(self) -> bool:
        """Whether insecure combinations must be refused."""
        return self.environment is Environment.PRODUCTION

    def describe(self) -> dict[str, Any]:
        """All settings for the start-up log; secrets show as asterisks."""
        return self.model_dump(mode="json")


class NatsSettings(BaseServiceSettings):
    """How to reach NATS.

    Attributes:
        nats_url: One URL or several, separated by commas.
        nats_user: Given together with `nats_password`.
        nats_password: Never part of the URL, so that no log holds it.
        nats_connect_deadline_seconds: Give up on the first connection after this; later
            reconnects go on for ever.
        shards: Number of shards of the deployment; the same for every process.
    """

    nats_url: str = "nats://127.0.0.1:4222"
    nats_user: str | None = None
    nats_password: SecretStr | None = None
    nats_connect_deadline_seconds: float = Field(default=30.0, gt=0)
    shards: int = Field(default=16, ge=1, le=1024)

    @property
    def urls(self) -> list[str]:
        """The server URLs as a list."""
        return [part.strip() for part in self.nats_url.split(",") if part.strip()]

    @model_validator(mode="after")
    def _check_nats(self) -> "NatsSettings":
        schemes = ("nats://", "tls://", "ws://", "wss://")
        if not self.urls:
            raise ValueError("NATS_URL: name at least one server, such as nats://127.0.0.1:4222")
        for url in self.urls:
            if not url.startswith(schemes):
                raise ValueError(f"NATS_URL: {url!r} must start with one of {', '.join(schemes)}")
            if "@" in url:
                raise ValueError("NATS_URL: put credentials into NATS_USER and NATS_PASSWORD")
        if (self.nats_user is None) != (self.nats_password is None):
            raise ValueError("NATS_USER and NATS_PASSWORD: set both or neither")
        if self.is_production and self.nats_user is None:
            raise ValueError("NATS_USER and NATS_PASSWORD: required when ENVIRONMENT=production")
        return self


class DatabaseSettings(BaseServiceSettings):
    """How to reach PostgreSQL.

    Attributes:
        database_url: `postgresql://user:password@host:port/name`.
        database_pool_size: Connections at most.
    """

    database_url: SecretStr = SecretStr("postgresql://tickfleet@127.0.0.1:5432/tickfleet")
    database_pool_size: int = Field(default=5, ge=1, le=100)

    @model_validator(mode="after")
    def _check_database(self) -> "DatabaseSettings":
        _check_database_url(self.database_url, is_production=self.is_production)
        return self


class OptionalDatabaseSettings(BaseServiceSettings):
    """How to reach PostgreSQL, for a process that can do without.

    Attributes:
        database_url: As in DatabaseSettings; unset or empty for no database.
        database_pool_size: Connections at most.
    """

    database_url: SecretStr | None = None
    database_pool_size: int = Field(default=5, ge=1, le=100)

    @model_validator(mode="after")
    def _check_optional_database(self) -> "OptionalDatabaseSettings":
        if self.database_url is not None and self.database_url.get_secret_value():
            _check_database_url(self.database_url, is_production=self.is_production)
        return self

    @property
    def database(self) -> DatabaseSettings | None:
        """The settings of the database, None for none."""
        if self.database_url is None or not self.database_url.get_secret_value():
            return None
        return DatabaseSettings(
            environment=self.environment,
            database_url=self.database_url,
            database_pool_size=self.database_pool_size,
        )


def _check_database_url(database_url: SecretStr, *, is_production: bool) -> None:
    url = database_url.get_secret_value()
    if not url.startswith(("postgresql://", "postgres://")):
        raise ValueError("DATABASE_URL: must look like postgresql://user:password@host/name")
    if is_production and ":" not in url.split("://", 1)[1].split("@")[0]:
        raise ValueError("DATABASE_URL: a password is required when ENVIRONMENT=production")


class EncryptionSettings(BaseServiceSettings):
    """The keys under which sessions and account secrets are stored.

    Attributes:
        account_encryption_key: Fernet keys (32 bytes, URL-safe base64), separated by commas,
            newest first: the first one encrypts, all of them decrypt. To change the key put the
            new one in front everywhere, ingest first; control encrypts anew what is older.
    """

    account_encryption_key: SecretStr

    @model_validator(mode="after")
    def _check_keys(self) -> "EncryptionSettings":
        keys = split_keys(self.account_encryption_key)
        if not keys or not all(_is_fernet_key(key) for key in keys):
            raise ValueError(
                "ACCOUNT_ENCRYPTION_KEY: must be a Fernet key of 44 characters, or several "
                "separated by commas, newest first; make one with "
                "python -c 'from cryptography.fernet import Fernet; "
                "print(Fernet.generate_key().decode())'"
            )
        return self


def split_keys(keys: SecretStr) -> list[str]:
    """The keys of a setting that holds one or several, separated by commas."""
    return [key.strip() for key in keys.get_secret_value().split(",") if key.strip()]


def _is_fernet_key(text: str) -> bool:
    try:
        return len(text) == 44 and len(base64.b64decode(text, altchars=b"-_", validate=True)) == 32
    except ValueError:
        return False


class Variables(Mapping[str, str]):
    """Variables whose names are not known beforehand, from the same places as settings.

    Strongest first: environment, the file that `<NAME>_FILE` names, `.env`. A file is read at each
    look-up, so a secret that was exchanged is seen; look-ups block for that long.

    Args:
        environment: Such as `os.environ`.
        dotenv: Path of the `.env` file; it need not exist.

    Attributes:
        problems: Files that could not be read, a sentence for each, by the variable looked up.
    """

    def __init__(self, environment: Mapping[str, str], dotenv: Path | None = None) -> None:
        self._environment = environment
        found = {} if dotenv is None else dotenv_values(dotenv)
        self._dotenv = {name: value for name, value in found.items() if value is not None}
        self.problems: dict[str, str] = {}

    def __getitem__(self, name: str) -> str:
        self.problems.pop(name, None)
        if name in self._environment:
            return self._environment[name]
        path = self._environment.get(f"{name}_FILE")
        if not path:
            return self._dotenv[name]
        try:
            return Path(path).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is no UTF-8 text"
            self.problems[name] = f"{name}_FILE: cannot read {path}: {reason}"
            raise KeyError(name) from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._environment.keys() | self._dotenv.keys())

    def __len__(self) -> int:
        return len(self._environment.keys() | self._dotenv.keys())

    def __repr__(self) -> str:
        return f"Variables({len(self)} names)"


S = TypeVar("S", bound=BaseServiceSettings)


def load(kind: type[S], **overrides: Any) -> S:
    """Read and check the settings of a process.

    Raises:
        SettingsError: With one line per problem, each naming its environment variable.
    """
    try:
        return kind(**overrides)
    except ValidationError as error:
        problems = []
        for detail in error.errors(include_url=False, include_input=False):
            variable = ".".join(str(part) for part in detail["loc"]).upper()
            text = detail["msg"].removeprefix("Value error, ")
            problems.append(f"{variable}: {text}" if variable else text)
        raise SettingsError(problems) from error
