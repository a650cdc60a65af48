"""Tags: found again after any crash, and nobody else's."""

import re

from hypothesis import given
from hypothesis import strategies as st

from services.orders.domain.tags import tag_of

triples = st.tuples(
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8),
    st.text("abc019-_", min_size=1, max_size=8),
    st.integers(0, 99),
)


@given(triples)
def test_tag_is_the_same_every_time_and_fits_the_broker(triple):
    assert tag_of(*triple) == tag_of(*triple)
    assert re.fullmatch(r"tf[a-z2-7]{14}", tag_of(*triple))


@given(st.lists(triples, unique=True, max_size=50))
def test_no_two_requests_share_a_tag(many):
    assert len({tag_of(*triple) for triple in many}) == len(many)


def test_tag_does_not_change_between_releases():
    # Requests in flight while a release is rolled out are looked for by the new one.
    assert tag_of("AB1234", "01JD", 0) == "tfxxu3t76kw2sedj"
