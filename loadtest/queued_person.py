"""One person in a rush with a waiting room: joins, asks as often as they are told to, claims, then buys."""

import json

from loadtest.person import RESERVE_PATH, Person, Request, basket_of

JOIN_PATH, STATUS_PATH, PASS_PATH, PLACE_PATH = (
    f"/api/v1/queue/{word}" for word in ("join", "status", "pass", "place")
)
NO_ROOM_S = 1.0
CLAIMS_MAX = 15
"""How often somebody who is late for the slot that was kept for them asks for another one."""
LEAVE_SHARE = 0.2
"""Who gives the place up, each time that they are told that it is most likely in vain."""
PUSH_ATTEMPT = -1
"""Whoever presses without a pass does not mean the wish that they have later."""


class QueuedPerson(Person):
    """Everything they do follows from the plan's seed, and from what they are told."""

    def live(self) -> None:
        """From the arrival until the person is done."""
        assert self.plan.queue is not None
        if self.choice.random() < self.plan.queue.pusher_share:
            self._push()
        if self._wait() and self._claim():
            super().live()

    def _push(self) -> None:
        """Press the button without a pass."""
        items = [
            {"zone_id": str(zone_id), "quantity": quantity}
            for zone_id, quantity in basket_of(self.plan, 0).items
        ]
        body = json.dumps({"items": items}).encode()
        headers = {**self.headers, "Content-Type": "application/json"}
        self.until_known(
            Request("reserve", RESERVE_PATH, body, headers, PUSH_ATTEMPT, 0, False, is_pushing=True),
            self.due_s,
        )

    def _wait(self) -> bool:
        """Join, and ask until it is one's turn; False for who goes home."""
        headers = {**self.headers, "Content-Type": "application/json"}
        body = json.dumps({"event_id": str(self.plan.event_id)}).encode()
        answer = self.until_known(Request("join", JOIN_PATH, body, headers, 0, 0, True), self.due_s)
        if answer.status != 201:
            return False
        self.headers["X-Queue-Ticket"] = str(self.data["ticket"])
        request = Request("status", STATUS_PATH, b"", self.headers, 0, 0, True, method="GET")
        while not self.world.is_over:
            match self.data.get("status"):
                case "served":
                    return True
                case "waiting" if self._gives_up():
                    self.until_known(
                        Request("place", PLACE_PATH, b"", self.headers, 0, 0, True, method="DELETE"),
                        self.world.now_s(),
                    )
                    return False
                case "waiting" | "registered" | "paused":
                    due_s = self.pause(int(self.data["poll_after_ms"]) / 1000)
                    if self.until_known(request, due_s).status != 200:
                        return False
                case _:
                    return False
        return False

    def _gives_up(self) -> bool:
        return self.data.get("outlook") == "unlikely" and self.choice.random() < LEAVE_SHARE

    def _claim(self) -> bool:
        """Claim the pass; who comes too late for the slot that was kept tries until there is room."""
        request = Request("pass", PASS_PATH, b"", self.headers, 0, 0, True)
        due_s = self.world.now_s()
        for _ in range(CLAIMS_MAX):
            if self.world.is_over:
                break
            answer = self.until_known(request, due_s)
            if answer.status == 201:
                self.headers["X-Queue-Pass"] = str(self.data["pass"])
                self.due_s = self.world.now_s()
                return True
            if answer.status != 409 or answer.code != "INVALID_STATE":
                return False
            due_s = self.pause(NO_ROOM_S)
        return False
