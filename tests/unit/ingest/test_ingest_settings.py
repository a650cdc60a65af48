"""Settings of ingest that contradict each other are refused by name."""

import pytest

from libs.common.settings import SettingsError, load
from services.ingest.settings import IngestSettings
from tests.fakes.ingest import KEY


@pytest.mark.parametrize(
    ("changes", "variable"),
    [
        ({"rate_limited_ceiling_seconds": 1.0}, "RATE_LIMITED_CEILING_SECONDS"),
        ({"backoff_ceiling_seconds": 0.1}, "BACKOFF_CEILING_SECONDS"),
        ({"outbox_mib": 0}, "OUTBOX_MIB"),
        ({"no_data_seconds": 0}, "NO_DATA_SECONDS"),
    ],
)
def test_setting_that_cannot_be_is_refused_by_name(changes, variable):
    with pytest.raises(SettingsError, match=variable):
        load(IngestSettings, account_encryption_key=KEY, **changes)


def test_defaults_are_in_order():
    settings = load(IngestSettings, account_encryption_key=KEY)
    assert settings.rate_limited_ceiling_seconds >= settings.rate_limited_backoff_seconds
