"""Places that nobody stands at any more, as Redis marks them: one bit each, counted fast."""

BLOCK_BYTES = 64


class Gone:
    """The bits of a cell's `gone` string: the first bit of the first byte is place 1."""

    __slots__ = ("_before", "_bits")

    def __init__(self, bits: bytes = b"") -> None:
        self._bits = bits
        self._before = [0]
        """How many are set before each block."""
        total = 0
        for start in range(0, len(bits), BLOCK_BYTES):
            total += int.from_bytes(bits[start : start + BLOCK_BYTES]).bit_count()
            self._before.append(total)

    def is_gone(self, place: int) -> bool:
        """Whether nobody stands there."""
        byte, bit = divmod(place - 1, 8)
        return byte < len(self._bits) and bool(self._bits[byte] & 0x80 >> bit)

    def up_to(self, place: int) -> int:
        """How many of the places 1…place are gone."""
        byte, bits = divmod(place, 8)
        if byte >= len(self._bits):
            return self._before[-1]
        block = byte // BLOCK_BYTES
        begun = self._bits[block * BLOCK_BYTES : byte]
        last = self._bits[byte] >> (8 - bits)
        return self._before[block] + int.from_bytes(begun).bit_count() + last.bit_count()
