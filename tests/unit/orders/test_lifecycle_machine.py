"""The state machine against a broker that takes requests, loses them, hides them and tells late.

The machine draws any order of sends, answers, crashes, take-overs, updates and looks. Whatever
it draws: no request is taken twice, no end is made up, no fill is lost, and in the end the broker's
word is what stands.
"""

from dataclasses import dataclass, field

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from libs.common.contracts.orders import OrderState, Resolution
from libs.common.domain.order_answers import BrokerOrder, CallFailure
from services.orders.domain.intent import Intent, replacement_of
from services.orders.domain.lifecycle import advance
from services.orders.domain.lifecycle_events import (
    Acked,
    Checked,
    DayOver,
    Event,
    Failed,
    Held,
    NotSeen,
    Recovered,
    Refused,
    Resend,
    Resolved,
    RowSeen,
    Sending,
    SessionRenewed,
    Step,
    Tick,
)
from services.orders.domain.outcomes import Outcome, classify
from services.orders.domain.task_states import task_state
from tests.unit.orders.lifecycle_rig import SECOND, START, placing, row

LIFE = ["PUT ORDER REQ RECEIVED", "VALIDATION PENDING", "OPEN PENDING", "OPEN"]
ENDS = ["COMPLETE", "CANCELLED", "REJECTED"]
FINAL_STATE = {
    "COMPLETE": OrderState.COMPLETE,
    "CANCELLED": OrderState.CANCELLED,
    "REJECTED": OrderState.REJECTED,
}
# What the ledger has no column for: lost with the process.
FORGOTTEN = {
    "retry_at_ns": None,
    "looking_since_ns": None,
    "looks": 0,
    "looked_at_ns": None,
    "other_order_ids": (),
}
NOT_PLACED = {
    "not_sent": CallFailure("ConnectionError", None, "refused", request_sent=False),
    "limited": CallFailure("NetworkException", 429, "Too many requests", request_sent=True),
    "session": CallFailure("TokenException", 403, "Incorrect token", request_sent=True),
    "refused": CallFailure("OrderException", 400, "Insufficient funds", request_sent=True),
    "forbidden": CallFailure("PermissionException", 403, "No", request_sent=True),
}
AMBIGUOUS = CallFailure("ReadTimeout", None, "Read timed out", request_sent=True)
UNCLEAR = ["ambiguous", "crash", "lost", "crash_before"]
BY_PEOPLE = {"resolved_absent", "resolved_adopt", "replaced"}

# Without it most runs would be over before they began.
rarely = st.integers(0, 15).map(lambda drawn: drawn == 15)


@dataclass
class _Taken:
    """An order that the broker took: every row it ever showed, oldest first."""

    order_id: str
    tag: str
    is_visible: bool
    rows: list[BrokerOrder] = field(default_factory=list)

    def show(self, status: str, filled: int) -> None:
        self.rows.append(row(status, order_id=self.order_id, tag=self.tag, filled=filled))

    @property
    def is_final(self) -> bool:
        return bool(self.rows) and self.rows[-1].is_final


class _OneRequest(RuleBasedStateMachine):
    """One leg of a task, the requests that replaced it, and the broker."""

    def __init__(self) -> None:
        super().__init__()
        self.now = START
        self.intents: list[Intent] = [placing()]
        self.taken: list[_Taken] = []
        self.looked_long_enough: dict[str, bool] = {}

    @property
    def intent(self) -> Intent:
        return self.intents[-1]

    def feed(self, event: Event, place: int = -1) -> Step:
        before = self.intents[place]
        step = advance(before, event)
        after = step.intent
        self.intents[place] = after
        assert after.filled_quantity >= before.filled_quantity
        assert after.tag == before.tag
        assert not (step.ignored and step.effects)
        if after.state is OrderState.ABSENT and before.state is OrderState.UNKNOWN:
            seconds = (self.now - (before.looking_since_ns or 0)) / SECOND
            self.looked_long_enough[after.tag] = after.looks >= 3 and seconds >= 90
        if before.has_final_word:
            assert (after.state, after.status) == (before.state, before.status)
        if after.state is OrderState.SENDING and before.state is not OrderState.SENDING:
            assert before.state in {OrderState.CHECKED, OrderState.RETRYING}
        return step

    def order_of(self, intent: Intent) -> _Taken | None:
        return next((order for order in self.taken if order.tag == intent.tag), None)

    # What the worker does.

    @rule()
    def check(self):
        self.feed(Checked(at_ns=self.now))

    @precondition(lambda self: self.intent.state is OrderState.PENDING)
    @rule(is_drawn=rarely)
    def refuse(self, is_drawn):
        if is_drawn:
            self.feed(Refused(at_ns=self.now, code="off_tick", message="…"))

    @rule(seconds=st.none() | st.integers(0, 60))
    def hold(self, seconds):
        until = None if seconds is None else self.now + seconds * SECOND
        self.feed(Held(at_ns=self.now, code="breaker_open", message="…", until_ns=until))

    @rule()
    def renew_session(self):
        self.feed(SessionRenewed(at_ns=self.now))

    @rule(
        ending=st.sampled_from(["acked", "update_first", *UNCLEAR, *UNCLEAR, *NOT_PLACED]),
        is_visible=st.booleans(),
    )
    def send(self, ending, is_visible):
        if self.feed(Sending(at_ns=self.now)).ignored:
            return
        # From here on the row is in the ledger, and the call is on its way.
        tag = self.intent.tag
        if ending in {"acked", "ambiguous", "crash", "update_first"}:
            assert all(order.tag != tag for order in self.taken), "two orders for one request"
            order = _Taken(str(len(self.taken) + 1), tag, is_visible)
            order.show(LIFE[0], 0)
            self.taken.append(order)
        if ending == "update_first":
            self.feed(RowSeen(at_ns=self.now, order=self.taken[-1].rows[-1]))
            ending = "acked"
        if ending == "acked":
            self.feed(Acked(at_ns=self.now, order_id=self.taken[-1].order_id))
        elif ending in {"ambiguous", "lost"}:
            self.fail(AMBIGUOUS)
        elif ending in {"crash", "crash_before"}:
            self.take_over()
        else:
            self.fail(NOT_PLACED[ending])

    def fail(self, failure: CallFailure) -> None:
        outcome = classify(failure)
        assert (outcome is Outcome.AMBIGUOUS) is (failure is AMBIGUOUS)
        self.feed(Failed(at_ns=self.now, outcome=outcome, failure=failure))

    @rule()
    def take_over(self):
        for place, intent in enumerate(self.intents):
            self.intents[place] = msgspec.structs.replace(intent, **FORGOTTEN)
            self.feed(Recovered(at_ns=self.now), place)
            assert self.intents[place].state is not OrderState.SENDING

    @rule(seconds=st.integers(0, 100))
    def wait(self, seconds):
        self.now += seconds * SECOND
        self.feed(Tick(at_ns=self.now))

    @rule()
    def look(self):
        for place, intent in enumerate(self.intents):
            order = self.order_of(intent)
            if order is not None and order.is_visible:
                self.feed(RowSeen(at_ns=self.now, order=order.rows[-1], is_look=True), place)
            else:
                self.feed(NotSeen(at_ns=self.now), place)

    @precondition(lambda self: self.intent.state is OrderState.UNKNOWN)
    @rule()
    def look_until_the_window_is_over(self):
        for _ in range(3):
            self.wait(45)
            self.look()

    # What the broker does.

    @precondition(lambda self: any(not order.is_final for order in self.taken))
    @rule(data=st.data(), status=st.sampled_from([*LIFE, *ENDS]), more=st.integers(0, 65))
    def progress(self, data, status, more):
        order = data.draw(st.sampled_from([order for order in self.taken if not order.is_final]))
        filled = max(more if status in {"OPEN", *ENDS} else 0, order.rows[-1].filled_quantity)
        filled = 65 if status == "COMPLETE" else filled
        order.show(status, 0 if status == "REJECTED" else filled)

    @precondition(lambda self: self.taken)
    @rule(data=st.data())
    def push(self, data):
        """An order update, as late, as often and as out of order as it likes."""
        order = data.draw(st.sampled_from(self.taken))
        shown = data.draw(st.sampled_from(order.rows))
        for place in range(len(self.intents)):
            self.feed(RowSeen(at_ns=self.now, order=shown), place)

    @precondition(lambda self: any(not order.is_visible for order in self.taken))
    @rule()
    def appear(self):
        for order in self.taken:
            order.is_visible = True

    # What people and the calendar do.

    @precondition(lambda self: self.intent.state is OrderState.ABSENT)
    @rule(resolution=st.sampled_from(Resolution))
    def resolve(self, resolution):
        order = self.order_of(self.intent)
        if resolution is Resolution.ADOPT and order is None:
            return
        if resolution is Resolution.RESEND and self.intent.order_id is not None:
            return
        order_id = None if order is None else order.order_id
        step = self.feed(
            Resolved(at_ns=self.now, resolution=resolution, by="ops", order_id=order_id)
        )
        if any(isinstance(effect, Resend) for effect in step.effects):
            leg = len(self.intents)
            self.intents.append(replacement_of(step.intent, leg=leg, valid_until_ns=None))

    @rule(is_drawn=rarely)
    def end_day(self, is_drawn):
        if is_drawn:
            self.feed(DayOver(at_ns=self.now))

    # What holds whatever happens.

    @invariant()
    def end_is_not_made_up(self):
        for intent in self.intents:
            order = self.order_of(intent)
            if not intent.is_settled:
                continue
            if intent.has_final_word:
                assert order is not None
                assert any(FINAL_STATE.get(shown.status) is intent.state for shown in order.rows)
            elif intent.code not in BY_PEOPLE:
                assert order is None, f"{intent.state} {intent.code} and the broker has it"

    @invariant()
    def what_may_be_sent_is_not_at_the_broker(self):
        for intent in self.intents:
            if intent.state in {OrderState.PENDING, OrderState.CHECKED, OrderState.RETRYING}:
                assert self.order_of(intent) is None

    @invariant()
    def absence_is_looked_for(self):
        for intent in self.intents:
            if intent.state is OrderState.ABSENT and intent.code == "not_found":
                assert self.looked_long_enough[intent.tag]

    @invariant()
    def task_is_at_its_end_exactly_when_its_requests_are(self):
        counted = [intent for intent in self.intents if not intent.is_replaced]
        is_over = all(intent.is_settled for intent in counted)
        assert is_over is (
            task_state(self.intents)
            in {*FINAL_STATE.values(), OrderState.FAILED, OrderState.DEAD_LETTER}
        )

    def teardown(self):
        for order in self.taken:
            order.is_visible = True
            if not order.is_final:
                order.show("COMPLETE", 65)
        self.look()
        for intent in self.intents:
            taken = self.order_of(intent)
            if taken is not None:
                last = taken.rows[-1]
                assert intent.state is FINAL_STATE[last.status]
                assert intent.order_id == taken.order_id
                assert intent.filled_quantity >= last.filled_quantity


TestOneRequest = _OneRequest.TestCase
TestOneRequest.settings = settings(max_examples=400, stateful_step_count=50)
