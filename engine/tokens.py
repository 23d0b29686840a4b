"""Access tokens: JSON Web Tokens (RFC 7519) signed with HMAC-SHA-256 (RFC 7515, HS256)."""

import base64
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


def _b64encode(raw: bytes) -> bytes:
    return base64.urlsafe_b64encode(raw).rstrip(b"=")


def _b64decode(text: bytes) -> bytes:
    # validate=True refuses what urlsafe_b64decode would silently skip.
    return base64.b64decode(text + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)


_HEADER = _b64encode(b'{"alg":"HS256","typ":"JWT"}')


class TokenSigner:
    """Signs and verifies access tokens with one shared secret."""

    def __init__(self, secret: str) -> None:
        # A keyed context is copied for each token, which saves hashing the key again.
        self._keyed = hmac.new(secret.encode(), digestmod=hashlib.sha256)

    def _signature(self, signed: bytes) -> bytes:
        mac = self._keyed.copy()
        mac.update(signed)
        return mac.digest()

    def sign(self, user_id: UUID, role: Role, tenant_id: UUID | None, *, ttl_s: int) -> str:
        """An access token that is valid for `ttl_s` seconds from now."""
        now_s = int(time.time())
        claims = Claims(
            sub=user_id, role=role, tenant_id=tenant_id, typ="access", iat=now_s, exp=now_s + ttl_s
        )
        signed = _HEADER + b"." + _b64encode(msgspec.json.encode(claims))
        return (signed + b"." + _b64encode(self._signature(signed))).decode()

    def verify(self, token: bytes) -> Claims:
        """The claims of a valid token; raises Unauthorized for any other, without saying why."""
        if len(token) > TOKEN_BYTES_MAX or token.count(b".") != 2:
            raise Unauthorized
        signed, _, signature = token.rpartition(b".")
        # Compared as text: a signature has one spelling, so a cut or padded one never matches.
        if not hmac.compare_digest(_b64encode(self._signature(signed)), signature):
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
