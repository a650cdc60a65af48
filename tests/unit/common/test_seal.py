"""Secrets at rest: the newest key seals, every key opens, fingerprints tell nothing."""

import pytest
from cryptography.fernet import Fernet
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from libs.common.contracts.messages import KiteSession, Source
from libs.common.kite.sessions import SessionSeal, SessionSealError
from libs.common.seal import Seal, SealError

OLD, NEW = (Fernet.generate_key().decode() for _ in range(2))
parts = st.lists(st.one_of(st.none(), st.text(max_size=8)), max_size=5)


def seal(*keys):
    return Seal(SecretStr(", ".join(keys)))


@given(st.binary(max_size=200))
def test_what_an_older_key_sealed_is_opened_and_known_as_old(content):
    sealed = seal(OLD).seal(content)
    both = seal(NEW, OLD)
    assert both.open(sealed) == content
    assert not both.is_current(sealed)
    assert both.is_current(both.seal(content))
    assert seal(NEW).open(both.seal(content)) == content


def test_foreign_and_damaged_bytes_are_refused_without_being_repeated():
    sealed = seal(OLD).seal(b"content")
    for bad in (sealed[:-4], b"", b"nonsense", sealed):
        with pytest.raises(SealError) as refused:
            seal(NEW).open(bad)
        assert "content" not in str(refused.value)


@pytest.mark.parametrize(
    "keys", ["", " , ", "short", f"{NEW},short"], ids=["none", "blank", "short", "second"]
)
def test_key_that_is_none_is_refused_and_not_shown(keys):
    with pytest.raises(SealError) as refused:
        Seal(SecretStr(keys))
    assert "short" not in str(refused.value)
    assert NEW not in str(refused.value)


@given(parts, parts)
def test_fingerprints_are_equal_for_equal_secrets_only(one, other):
    made = seal(NEW, OLD)
    assert (made.fingerprint(one) == made.fingerprint(other)) == (one == other)


def test_fingerprint_outlives_a_change_of_keys_and_needs_the_key():
    secrets = ["key", None, "password"]
    made = seal(OLD).fingerprint(secrets)
    assert seal(NEW, OLD).matches(made, secrets)
    assert not seal(NEW).matches(made, secrets)
    assert not seal(NEW, OLD).matches(made, ["key", "", "password"])
    assert "password" not in made


def test_keys_do_not_print():
    assert NEW not in repr(seal(NEW, OLD))


def test_session_of_an_older_key_is_opened():
    session = KiteSession(
        account="main",
        api_key="k",
        access_token="t",
        user_id="u",
        ws_url="ws://x",
        source=Source.SIM,
        minted_at_ns=1,
    )
    sealed = SessionSeal(SecretStr(OLD)).seal(session)
    both = SessionSeal(SecretStr(f"{NEW},{OLD}"))
    assert both.open(sealed) == session
    assert not both.is_current(sealed)
    with pytest.raises(SessionSealError):
        SessionSeal(SecretStr(NEW)).open(sealed)
