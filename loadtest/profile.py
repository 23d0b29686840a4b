"""What people buy: baskets with their weights, read from a file that names its source."""

from pathlib import Path

import msgspec

_FOLDER = Path(__file__).parent / "profiles"
_FILES = {"emf": "emf2018.json"}

NAMES = tuple(_FILES)


class ProfileZone(msgspec.Struct, frozen=True):
    """A zone that the event of this profile has."""

    name: str
    price: str


class Basket(msgspec.Struct, frozen=True):
    """What some people take: zone name → quantity."""

    weight: int
    items: dict[str, int]


class Profile(msgspec.Struct, frozen=True):
    """A kind of rush."""

    name: str
    title: str
    source: str
    currency: str
    max_per_user: int
    zones: list[ProfileZone]
    baskets: list[Basket]

    def demand(self) -> dict[str, float]:
        """How many of each zone one person wants on average."""
        weight = sum(basket.weight for basket in self.baskets)
        return {
            zone.name: sum(basket.weight * basket.items.get(zone.name, 0) for basket in self.baskets) / weight
            for zone in self.zones
        }

    def capacities(self, tickets: int) -> dict[str, int]:
        """`tickets` shared out as people want them, so that all zones sell out together; each at least 1.

        Raises ValueError for fewer tickets than zones.
        """
        if tickets < len(self.zones):
            raise ValueError(f"at least {len(self.zones)} tickets, one for each zone")
        demand = self.demand()
        total = sum(demand.values())
        shares = {name: max(1, int(tickets * wanted / total)) for name, wanted in demand.items()}
        largest = max(shares, key=lambda name: shares[name])
        shares[largest] += tickets - sum(shares.values())
        return shares


def load_profile(name: str) -> Profile:
    """The profile of that name; raises KeyError for another."""
    return msgspec.json.decode((_FOLDER / _FILES[name]).read_bytes(), type=Profile)
