"""Access tokens: JSON Web Tokens (RFC 7519) signed with HMAC-SHA-256 (RFC 7515, HS256)."""

import binascii
import hashlib
import hmac
import time
from typing import Literal
from uuid import UUID

import msgspec

from engine.errors import Unauthorized

Role = Literal["user", "organizer", "admin"]

TOKEN_BYTES_MAX = 4096
CLOCK_SKEW_S = 5
"""How far in the future `iat` may lie: two servers' clocks are never quite equal."""


class Claims(msgspec.Struct, frozen=True):
    """What a verified token says: who, in which role, for which tenant, until when (Unix s)."""

    sub: UUID
    role: Role
    tenant_id: UUID | None
    typ: Literal["access"]
    iat: int
    exp: int


class _Header(msgspec.Struct):
    alg: Literal["HS256"]
    typ: str = "JWT"
    crit: list[str] | msgspec.UnsetType = msgspec.UNSET


_header_decoder = msgspec.json.Decoder(_Header)
_claims_decoder = msgspec.json.Decoder(Claims)


_URL_SAFE = bytes.maketrans(b"+/", b"-_")
_PLAIN = bytes.maketrans(b"-_", b"+/")
_PADDING = (b"", b"===", b"==", b"=")


def _b64encode(raw: bytes) -> bytes:
    return binascii.b2a_base64(raw, newline=False).translate(_URL_SAFE).rstrip(b"=")


def _b64decode(text: bytes) -> bytes:
    # Strict mode refuses what base64.urlsafe_b64decode would silently skip.
    padded = text.translate(_PLAIN) + _PADDING[len(text) % 4]
    return binascii.a2b_base64(padded, strict_mode=True)


_HEADER = _b64encode(b'{"alg":"HS256","typ":"JWT"}')
_BLOCK_BYTES = 64


class TokenSigner:
    """Signs and verifies access tokens with one shared secret."""

    def __init__(self, secret: str) -> None:
        # HMAC by its definition (RFC 2104): both hashes have read the key already and are copied for each
        # token. The class in `hmac` costs twice as much a token.
        key = secret.encode()
        if len(key) > _BLOCK_BYTES:
            key = hashlib.sha256(key).digest()
        block = key.ljust(_BLOCK_BYTES, b"\0")
        self._inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in block))
        self._outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in block))

    def _signature(self, signed: bytes) -> bytes:
        inner = self._inner.copy()
        inner.update(signed)
        outer = self._outer.copy()
        outer.update(inner.digest())
        return _b64encode(outer.digest())

    def sign(self, user_id: UUID, role: Role, tenant_id: UUID | None, *, ttl_s: int) -> str:
        """An access token that is valid for `ttl_s` seconds from now."""
        now_s = int(time.time())
        claims = Claims(
            sub=user_id, role=role, tenant_id=tenant_id, typ="access", iat=now_s, exp=now_s + ttl_s
        )
        signed = _HEADER + b"." + _b64encode(msgspec.json.encode(claims))
        return (signed + b"." + self._signature(signed)).decode()

    def verify(self, token: bytes) -> Claims:
        """The claims of a valid token; raises Unauthorized for any other, without saying why."""
        if len(token) > TOKEN_BYTES_MAX or token.count(b".") != 2:
            raise Unauthorized
        signed, _, signature = token.rpartition(b".")
        # Compared as text: a signature has one spelling, so a cut or padded one never matches.
        if not hmac.compare_digest(self._signature(signed), signature):
            raise Unauthorized
        header, _, payload = signed.partition(b".")
        try:
            if header != _HEADER and _header_decoder.decode(_b64decode(header)).crit is not msgspec.UNSET:
                raise Unauthorized
            claims = _claims_decoder.decode(_b64decode(payload))
        except (msgspec.MsgspecError, binascii.Error, ValueError):
            raise Unauthorized from None
        now_s = time.time()
        if claims.exp <= now_s or claims.iat > now_s + CLOCK_SKEW_S:
            raise Unauthorized
        return claims
