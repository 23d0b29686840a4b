"""One person in the rush: what they want, and how they take the answers they get."""

import json
import random
from collections.abc import Callable
from typing import Any, Literal, Protocol
from uuid import UUID

import msgspec

from loadtest.plan import Kind, Plan, PlanBasket
from loadtest.told import NO_ANSWER, Answer

TRIES_MAX = 8
"""How often one request is sent when the answer is 503, 202 or none."""
RETRY_MAX_S = 5.0
COME_BACK_S = (1.0, 3.0)
AT_ONCE_SHARE = 0.5
"""Of those who press twice: at the same time, not one after the other."""
SINGLE = -1
"""The basket of who comes back: one ticket of the first zone of the first basket."""
RESERVE_PATH = "/api/v1/bookings/reserve"


class Reply(msgspec.Struct):
    """What the wire gave back; status 0 where it gave nothing."""

    status: int
    headers: dict[str, str]
    body: bytes
    sent_s: float
    done_s: float


class World(Protocol):
    """What a person needs of the world; gevent in a run, a script in the tests."""

    plan: Plan
    is_over: bool
    """The run ends: nobody begins anything new."""

    def now_s(self) -> float:
        """The monotonic clock."""

    def sleep(self, seconds: float) -> None:
        """Let time pass."""

    def send(self, path: str, body: bytes, headers: dict[str, str], method: str = "POST") -> Reply:
        """Send a request, and wait for the answer."""

    def at_once(self, act: Callable[[], None]) -> Callable[[], None]:
        """Begin to act beside the caller; the result waits until it is done."""

    def tell(self, answer: Answer) -> None:
        """Write down what was answered."""

    def token(self, user_id: UUID) -> str:
        """An access token for this user."""


class _Body(msgspec.Struct):
    data: dict[str, Any] | None = None
    error: dict[str, Any] | None = None


_body_decoder = msgspec.json.Decoder(_Body)


class Person:
    """Person number `number` of the plan; everything they do follows from the plan's seed."""

    def __init__(self, world: World, number: int, due_s: float) -> None:
        self.world = world
        self.plan = world.plan
        self.number = number
        self.due_s = due_s
        self.choice = random.Random((self.plan.seed << 32) + number)
        self.user_id = UUID(int=self.choice.getrandbits(128), version=4)
        self.headers = {"Authorization": f"Bearer {world.token(self.user_id)}"}
        self._is_first = True
        self.data: dict[str, Any] = {}
        """Of the last answer that had any."""

    def live(self) -> None:
        """From the arrival until the person is done."""
        choice, plan = self.choice, self.plan
        [basket] = choice.choices(range(len(plan.baskets)), [each.weight for each in plan.baskets])
        key = None if choice.random() < plan.keyless_share else self._new_key()
        answer = self._reserve(basket, 0, key, self.due_s)
        if (
            answer.status == 409
            and answer.code == "INSUFFICIENT_STOCK"
            and choice.random() < plan.again_share
        ):
            due_s = self.pause(choice.uniform(*COME_BACK_S))
            if self.world.is_over:
                return
            answer = self._reserve(SINGLE, 1, self._new_key(), due_s)
        if answer.status != 201 or answer.booking_id is None:
            return
        due_s = self.pause(min(choice.expovariate(1 / plan.think_s), plan.hold_ttl_s / 2))
        if self.world.is_over:
            return
        act = choice.random()
        if act < plan.confirm_share:
            self._insist("confirm", answer, due_s)
        elif act < plan.confirm_share + plan.cancel_share:
            self._insist("cancel", answer, due_s)

    def _new_key(self) -> str:
        return f"{self.choice.getrandbits(64):016x}"

    def pause(self, seconds: float) -> float:
        """Wait; when what follows is due."""
        due_s = self.world.now_s() + seconds
        self.world.sleep(seconds)
        return due_s

    def _reserve(self, basket: int, attempt: int, key: str | None, due_s: float) -> Answer:
        """Press the button; some press it twice."""
        chosen = basket_of(self.plan, basket)
        items = [{"zone_id": str(zone_id), "quantity": quantity} for zone_id, quantity in chosen.items]
        headers = {**self.headers, "Content-Type": "application/json"}
        if key is not None:
            headers["Idempotency-Key"] = key
        request = Request(
            kind="reserve",
            path=RESERVE_PATH,
            body=json.dumps({"items": items}).encode(),
            headers=headers,
            attempt=attempt,
            basket=basket,
            is_repeatable=key is not None,
        )
        is_twice = key is not None and self.choice.random() < self.plan.twice_share
        if is_twice and self.choice.random() < AT_ONCE_SHARE:
            wait = self.world.at_once(lambda: _ignore(self.until_known(request, due_s)))
            answer = self.until_known(request, due_s)
            wait()
            return answer
        answer = self.until_known(request, due_s)
        if is_twice:
            self.until_known(request, self.world.now_s())
        return answer

    def _insist(self, verb: Literal["confirm", "cancel"], booked: Answer, due_s: float) -> None:
        request = Request(
            kind=verb,
            path=f"/api/v1/bookings/{booked.booking_id}/{verb}",
            body=b"",
            headers=self.headers,
            attempt=booked.attempt,
            basket=booked.basket,
            is_repeatable=True,
            booking_id=booked.booking_id,
        )
        self.until_known(request, due_s)

    def until_known(self, request: "Request", due_s: float) -> Answer:
        """Send, and again after 503, 202 or no answer, as the contract says; a bounded number of times."""
        for tried in range(1, TRIES_MAX + 1):
            is_first, self._is_first = self._is_first, False
            sent_s = self.world.now_s()
            try:
                reply = self.world.send(request.path, request.body, request.headers, request.method)
            except BaseException:
                # The run is cut off: what becomes of this request, nobody will know.
                lost = Reply(NO_ANSWER, {}, b"", sent_s, self.world.now_s())
                self.world.tell(self._read(request, lost, due_s, is_first))
                raise
            answer = self._read(request, reply, due_s, is_first)
            self.world.tell(answer)
            is_open = answer.status in (202, NO_ANSWER) or answer.status >= 500
            if not is_open or not request.is_repeatable or tried == TRIES_MAX or self.world.is_over:
                break
            due_s = self.pause(_retry_after_s(reply) + self.choice.uniform(0, 0.5))
        return answer

    def _read(self, request: "Request", reply: Reply, due_s: float, is_first: bool) -> Answer:
        """What an answer says, as a line."""
        code, booking_id = "", request.booking_id
        try:
            body = _body_decoder.decode(reply.body) if reply.body else _Body()
        except (msgspec.MsgspecError, ValueError):
            body, code = _Body(), "UNREADABLE"
        if body.error is not None:
            code = str(body.error.get("code", ""))
        self.data = body.data or {}
        place = self.data.get("place")
        if body.data is not None and booking_id is None and "id" in body.data:
            booking_id = UUID(str(body.data["id"]))
        return Answer(
            kind=request.kind,
            person=self.number,
            user_id=self.user_id,
            attempt=request.attempt,
            due_s=due_s,
            sent_s=reply.sent_s,
            done_s=reply.done_s,
            status=reply.status,
            code=code,
            booking_id=booking_id,
            ledger_seq=reply.headers.get("x-ledger-seq"),
            is_replayed=reply.headers.get("idempotent-replayed") == "true",
            basket=request.basket,
            is_keyed=request.is_repeatable,
            is_first=is_first,
            place=place if isinstance(place, int) else 0,
            is_pushing=request.is_pushing,
        )


class Request(msgspec.Struct, frozen=True):
    """What is sent again and again until the answer is known."""

    kind: Kind
    path: str
    body: bytes
    headers: dict[str, str]
    attempt: int
    basket: int
    is_repeatable: bool
    booking_id: UUID | None = None
    method: str = "POST"
    is_pushing: bool = False


def basket_of(plan: Plan, number: int) -> PlanBasket:
    """The basket that a number in the told lines means."""
    if number == SINGLE:
        return PlanBasket(1, [(plan.baskets[0].items[0][0], 1)])
    return plan.baskets[number]


def _ignore(_: Answer) -> None:
    """A second press: the answer is written down, and that is all."""


def _retry_after_s(reply: Reply) -> float:
    text = reply.headers.get("retry-after", "")
    return min(float(text), RETRY_MAX_S) if text.isdigit() else 0.5
