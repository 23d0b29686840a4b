"""Whose request it is, by address."""

import ipaddress

from starlette.types import Scope

from gateway.wire import Head

IPV6_PREFIX_BITS = 64
NOBODY = "-"

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class ClientAddresses:
    """Finds the address that rate limits count.

    `X-Forwarded-For` is believed only as far as trusted proxies wrote it: from the right, the first
    address that is not one of them. An IPv6 client counts as its /64, which is what one customer gets.
    """

    def __init__(self, trusted_proxies: str) -> None:
        """`trusted_proxies`: addresses or networks, separated by commas; raises ValueError for others."""
        names = (name.strip() for name in trusted_proxies.split(","))
        self._trusted: list[Network] = [ipaddress.ip_network(name) for name in names if name]

    def of(self, scope: Scope, head: Head) -> str:
        """The client's address, or `-` where the connection has none (a Unix socket)."""
        client = scope.get("client")
        peer = client[0] if client else NOBODY
        if self._trusted and head.forwarded_for is not None and self._is_trusted(peer):
            for hop in reversed(head.forwarded_for.decode("latin-1").split(",")):
                if not self._is_address(hop.strip()):
                    break
                peer = hop.strip()
                if not self._is_trusted(peer):
                    break
        return self._subject(peer)

    def _is_trusted(self, text: str) -> bool:
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            return False
        return any(address in network for network in self._trusted)

    @staticmethod
    def _is_address(text: str) -> bool:
        try:
            ipaddress.ip_address(text)
        except ValueError:
            return False
        return True

    @staticmethod
    def _subject(text: str) -> str:
        if ":" not in text:
            return text
        try:
            address = ipaddress.IPv6Address(text.partition("%")[0])
        except ValueError:
            return text
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.IPv6Network((address, IPV6_PREFIX_BITS), strict=False).network_address)
