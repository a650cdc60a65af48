"""The YAML file of accounts: what is wrong stands where, and no value stands in a complaint."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.control.domain import account_file, accounts
from services.control.domain.accounts import Found, Problem

FILE = "conf/accounts.yaml"
GOOD = """\
accounts:
  main:
    api_key: key1234
    api_secret: secret1234
    user_id: AB1234
    password: 0123
    totp_secret: JBSWY3DPEHPK3PXP
    connections: 2
    tokens_per_connection: 1000
  second:
    api_key: key5678
    api_secret: secret5678
"""


def found(text):
    parsed = account_file.parse(text, FILE)
    assert isinstance(parsed, Found)
    return parsed


def broken(text):
    parsed = account_file.parse(text, FILE)
    assert isinstance(parsed, Problem)
    assert parsed.account is None
    return parsed.message


def test_complete_accounts_are_taken_with_their_place_and_capacity():
    parsed = found(GOOD)
    assert parsed.problems == ()
    main, second = parsed.accounts
    assert (main.name, main.place) == ("main", f"{FILE}:2:3")
    # As it stands, and not as the number 83 that YAML reads.
    assert main.password == "0123"
    assert (main.connections, main.tokens_per_connection) == (2, 1000)
    assert second.credentials() is None


def test_list_of_accounts_is_the_same_as_a_mapping():
    text = "accounts:\n- name: main\n  api_key: k\n  api_secret: s\n"
    (account,) = found(text).accounts
    assert (account.name, account.place) == ("main", f"{FILE}:2:3")


@pytest.mark.parametrize(
    ("line", "at", "hint"),
    [
        ("    totp_secert: JBSWY3DPEHPK3PXP", "13:5", "did you mean 'totp_secret'?"),
        ("    api_key: again", "13:5", "second time"),
        ("    connections: 4", "13:18", "from 1 to 3"),
        ("    tokens_per_connection: lots", "13:28", "from 1 to 3000"),
        ("    totp_secret: '0189'", "13:18", "base32"),
        ("    password: [1, 2]", "13:15", "single value"),
        ("    password:", "", ""),
    ],
)
def test_mistake_in_one_account_is_named_with_its_place_and_the_other_runs(line, at, hint):
    parsed = found(GOOD + line + "\n")
    if not at:
        assert [a.name for a in parsed.accounts] == ["main", "second"]
        return
    assert [a.name for a in parsed.accounts] == ["main"]
    (problem,) = parsed.problems
    assert problem.account == "second"
    assert problem.message.startswith(f"{FILE}:{at}: account second is skipped: ")
    assert hint in problem.message


def test_missing_field_is_named_at_the_account():
    parsed = found("accounts:\n  main:\n    api_key: k\n    user_id: u\n")
    (problem,) = parsed.problems
    assert problem.message == f"{FILE}:2:3: account main is skipped: api_secret is missing"


def test_account_that_is_described_twice_counts_once():
    parsed = found("accounts:\n- {name: m, api_key: a, api_secret: b}\n- {name: m, api_key: c}\n")
    assert [a.api_key for a in parsed.accounts] == ["a"]
    (problem,) = parsed.problems
    assert problem.account is None


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("accounts: [", "1:12"),
        ("accounts:\n  main:\n\tapi_key: x\n", "3:1"),
        ("accounts:\n  main:\n    password: *hunter2\n", "3:15"),
        ("accounts:\n  main:\n    password: 'hunter2\n", "4:1"),
        ("acounts: {}\n", "1:1"),
        ("accounts: {}\naccounts: {}\n", "2:1"),
        ("accounts: text\n", "1:11"),
        ("- a\n", "1:1"),
        ("text", "1:1"),
        ("", "1:1"),
        ("accounts:\n  ma\x00in: {}\n", "2:5"),
        ("a: 1\n---\nb: 2\n", "2:1"),
    ],
)
def test_file_that_cannot_be_read_is_a_problem_with_line_and_column(text, at):
    message = broken(text)
    assert message.startswith(f"{FILE}:{at}: ")
    assert "hunter2" not in message


def test_file_without_accounts_is_no_problem():
    assert found("accounts:\n") == Found()
    assert found("accounts: {}\n") == Found()
    assert found("accounts: []\n") == Found()


def test_tags_do_nothing_and_aliases_are_not_multiplied():
    parsed = found("accounts:\n  main: !!python/object/apply:os.system ['true']\n")
    assert parsed.accounts == ()
    laughs = "a0: &a0 x\n" + "\n".join(
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 30)
    )
    assert "unknown" in broken(laughs)
    assert "larger" in broken("#" * (account_file.TEXT_BYTES_MAX + 1))


def test_nested_beyond_all_measure_is_a_problem_and_no_crash():
    assert isinstance(account_file.parse("accounts: " + "[" * 5000, FILE), Problem)


@given(st.text(max_size=80))
def test_any_text_is_answered_with_accounts_or_sentences(text):
    parsed = account_file.parse(text, FILE)
    if isinstance(parsed, Problem):
        assert parsed.message.startswith(FILE)


@given(
    st.sampled_from(["password", "api_secret", "totp_secret", "api_key"]),
    st.text("abcdefgh0123456789", min_size=6, max_size=20).map(lambda text: f"S3CR3T{text}"),
    st.sampled_from(
        ["{}", "'{}", '"{}', "*{}", "&{}", "!{}", "[{}", "{{{}", "%{}", "@{}", "{}: :", "? {}"]
    ),
    st.booleans(),
)
def test_no_value_ever_stands_in_a_complaint(field, secret, shape, misspelt):
    name = f"{field}x" if misspelt else field
    text = f"accounts:\n  main:\n    user_id: u\n    {name}: {shape.format(secret)}\n"
    parsed = account_file.parse(text, FILE)
    messages = (
        [parsed.message]
        if isinstance(parsed, Problem)
        else [problem.message for problem in parsed.problems]
    )
    assert messages
    assert not [message for message in messages if secret in message]


def test_fields_of_the_file_are_those_of_an_account():
    assert set(accounts.FIELDS) >= {"api_key", "connections", "tokens_per_connection"}
