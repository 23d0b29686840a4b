"""Which node of a cluster holds what: slots, and what the nodes say of who owns them.

Each node has a view of its own, and a view may be old: of a node that was cut off, or has not heard yet. Of
two nodes that are said to own a slot it is the one with the higher configuration epoch, as among the nodes
themselves (Redis Cluster specification, "Configuration handling, propagation, and failovers"). So views are
added up, and an old one takes nothing back. Who is in no view any more is forgotten.
"""

import binascii
from collections.abc import Collection
from typing import NamedTuple

from engine.ids import CellId
from engine.keys import tag

SLOTS = 16_384


def slot_of(key: str) -> int:
    """The slot of a key: CRC16 (XMODEM) of its hash tag, where it has one."""
    begin = key.find("{") + 1
    if begin:
        end = key.find("}", begin)
        if end > begin:
            key = key[begin:end]
    return binascii.crc_hqx(key.encode(), 0) % SLOTS


def slot_of_cell(cell_id: CellId) -> int:
    """The slot of a cell's keys."""
    return binascii.crc_hqx(tag(cell_id).encode(), 0) % SLOTS


class Claim(NamedTuple):
    """That a master owns slots, as some node sees it."""

    node: str
    """Its id in the cluster: it keeps it when it moves."""
    epoch: int
    host: str
    port: int
    ranges: tuple[tuple[int, int], ...]
    """First and last slot."""


class View(NamedTuple):
    """What one node says of the cluster."""

    nodes: frozenset[str]
    """The ids of all that it knows: of replicas too, and of who is away."""
    claims: list[Claim]
    """Of the masters with slots."""


def read_view(text: str, asked_host: str, *, by_name: bool = False) -> View:
    """What a node answers to CLUSTER NODES.

    A node that does not know its own address is where it was asked, `asked_host`. `by_name` prefers the names
    that nodes announce to their addresses: a certificate proves a name. Raises ValueError for another text.
    """
    nodes, claims = set(), []
    for line in text.splitlines():
        node, where, flags, _, _, _, epoch, _, *slots = line.split(" ")
        nodes.add(node)
        known_as = flags.split(",")
        if "master" not in known_as or "noaddr" in known_as or "handshake" in known_as:
            continue
        address, *names = where.split(",")
        host, _, port = address.partition("@")[0].rpartition(":")
        if by_name and names and names[0]:
            host = names[0]
        # One in brackets is on its way from this node or to it, and stands among the others as well.
        ranges = tuple(_range(slot) for slot in slots if slot and slot[0] != "[")
        if ranges:
            claims.append(Claim(node, int(epoch), host or asked_host, int(port), ranges))
    return View(frozenset(nodes), claims)


def _range(text: str) -> tuple[int, int]:
    first, _, last = text.partition("-")
    return int(first), int(last or first)


class SlotMap:
    """All views that were taken in, added up."""

    def __init__(self) -> None:
        self.owners: list[str | None] = [None] * SLOTS
        """The id of the master of each slot."""
        self._epochs = [-1] * SLOTS
        self._newest: dict[str, Claim] = {}
        """Of each node. Of two of the same epoch it is the one that was heard last: an address has none."""

    def take(self, claims: list[Claim]) -> bool:
        """Take a view in; whether any slot has another owner now, or any owner another address."""
        is_changed = False
        for claim in claims:
            before = self._newest.get(claim.node)
            if before is not None and (claim == before or claim.epoch < before.epoch):
                continue
            self._newest[claim.node] = claim
            has_moved = before is not None and (before.host, before.port) != (claim.host, claim.port)
            is_changed |= self._own(claim) or (has_moved and claim.node in self.owners)
        return is_changed

    def forget_all_but(self, nodes: Collection[str]) -> bool:
        """Forget whom no node knows any more; whether that was an owner.

        A cluster that was made anew counts its epochs from the beginning: against what is remembered of the
        one before, none of its claims would be believed.
        """
        gone = self._newest.keys() - nodes
        if not gone:
            return False
        left = [slot for slot, owner in enumerate(self.owners) if owner in gone]
        for slot in left:
            self.owners[slot], self._epochs[slot] = None, -1
        for node in gone:
            del self._newest[node]
        # What the others claimed of these slots was not believed before.
        for claim in self._newest.values():
            self._own(claim)
        return bool(left)

    def masters(self) -> dict[str, tuple[str, int]]:
        """Id, and host and port, of every node that owns a slot."""
        owners = [self._newest[node] for node in dict.fromkeys(self.owners) if node is not None]
        return {owner.node: (owner.host, owner.port) for owner in owners}

    def _own(self, claim: Claim) -> bool:
        """Give the node what it claims and no later one does; whether any of it is new."""
        is_new = False
        for first, last in claim.ranges:
            for slot in range(first, last + 1):
                if claim.epoch >= self._epochs[slot]:
                    is_new |= self.owners[slot] != claim.node
                    self.owners[slot], self._epochs[slot] = claim.node, claim.epoch
        return is_new
