"""Who stands where: how many living places there are between two, for a million of them."""

BLOCK = 4_096


class Places:
    """Living places, from 1 on, counted in blocks."""

    def __init__(self, places_max: int) -> None:
        self._living = bytearray(places_max + 1)
        self._blocks = [0] * (places_max // BLOCK + 1)

    def set(self, place: int, is_living: bool) -> None:
        """Somebody stands there from now on, or nobody does."""
        change = is_living - self._living[place]
        self._living[place] = is_living
        self._blocks[place // BLOCK] += change

    def is_living(self, place: int) -> bool:
        """Whether somebody stands there."""
        return bool(self._living[place])

    def between(self, first: int, last: int) -> int:
        """How many stand in the places `first` to `last`, both included."""
        if last < first:
            return 0
        low, high = first // BLOCK + 1, last // BLOCK
        if low > high:
            return self._living.count(1, first, last + 1)
        return (
            self._living.count(1, first, low * BLOCK)
            + sum(self._blocks[low:high])
            + self._living.count(1, high * BLOCK, last + 1)
        )
