"""Accounts: registration, login and refresh tokens that work once.

What one login leads to is a family of refresh tokens, generation by generation. A used token that
comes again means that two parties hold it, so its family ends; only the newest predecessor is
forgiven for some seconds, because a client whose answer was lost cannot but ask again. What may
happen at once is decided in Postgres: by the unique e-mail, and by a lock on the account's row.
"""

import hashlib
import re
import secrets
from uuid import UUID, uuid4

import asyncpg
import msgspec

from engine.errors import Conflict, NotFound, Unauthorized, ValidationFailed
from engine.failpoints import failpoint
from engine.passwords import PASSWORD_BYTES_MAX, PASSWORD_CHARACTERS_MIN, PasswordHasher
from engine.sql import load_queries
from engine.stores import Connection, Stores
from engine.times import to_ms
from engine.tokens import Role, TokenSigner

EMAIL_CHARACTERS_MAX = 254
FULL_NAME_CHARACTERS_MAX = 255
REFRESH_TOKEN_BYTES = 32

# Printable ASCII, one @, a name before it and a dotted host behind. Whether it exists, only an e-mail tells.
_EMAIL = re.compile(r"[!-?A-~]{1,64}@[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9-]*[A-Za-z0-9])+")

_queries = load_queries("accounts")


class Account(msgspec.Struct, frozen=True):
    """A user of ours."""

    id: UUID
    tenant_id: UUID | None
    email: str
    full_name: str
    role: Role
    email_verified: bool
    created_at_ms: int


class Session(msgspec.Struct, frozen=True):
    """A pair of tokens and whose it is."""

    account: Account
    access_token: str
    refresh_token: str
    expires_in_s: int


class Accounts:
    """The accounts of this installation: one issuer of tokens, others may exist."""

    def __init__(self, stores: Stores, signer: TokenSigner, hasher: PasswordHasher) -> None:
        self._pool = stores.pool
        self._settings = stores.settings
        self._signer = signer
        self._hasher = hasher

    async def register(self, email: str, password: str, full_name: str) -> Session:
        """Open an account and log in; raises ValidationFailed, or Conflict where the e-mail is taken."""
        email, full_name = normal_email(email), normal_full_name(full_name)
        check_password(password)
        password_hash = await self._hasher.hash(password)
        async with self._pool.acquire() as connection, connection.transaction():
            row = await _queries.insert_user(
                connection, email=email, password_hash=password_hash, full_name=full_name, role="user"
            )
            failpoint("accounts.after_user")
            if row is None:
                raise Conflict("There is an account with this e-mail already", details={"field": "email"})
            session = await self._new_family(connection, _account(row))
        failpoint("accounts.after_registration")
        return session

    async def ensure(self, email: str, password: str, full_name: str, role: Role) -> Account:
        """The account with this e-mail, opened in that role where there is none: for set-up only."""
        email = normal_email(email)
        if row := await _queries.find_user_by_email(self._pool, email=email):
            return _account(row)
        check_password(password)
        password_hash = await self._hasher.hash(password)
        await _queries.insert_user(
            self._pool, email=email, password_hash=password_hash, full_name=full_name, role=role
        )
        return _account(await _queries.find_user_by_email(self._pool, email=email))

    async def login(self, email: str, password: str) -> Session:
        """A new family of tokens; raises Unauthorized, as slowly for an unknown e-mail as for a known one."""
        row = await _queries.find_user_by_email(self._pool, email=email.strip().lower())
        if not await self._hasher.verify(password, row["password_hash"] if row else None):
            raise Unauthorized("E-mail or password is wrong")
        async with self._pool.acquire() as connection, connection.transaction():
            await _queries.delete_expired_tokens(connection, user_id=row["id"])
            failpoint("accounts.after_forgetting")
            session = await self._new_family(connection, _account(row))
        failpoint("accounts.after_login")
        return session

    async def refresh(self, refresh_token: str) -> Session:
        """Exchange a refresh token for a new pair; raises Unauthorized, and ends the family on a reuse."""
        token_hash = _hash(refresh_token)
        async with self._pool.acquire() as connection, connection.transaction():
            session = await self._rotate(connection, token_hash)
        failpoint("accounts.after_refresh")
        # Raised behind the transaction: the end of a family is to be committed.
        if session is None:
            raise Unauthorized("This refresh token is not valid")
        return session

    async def _rotate(self, connection: Connection, token_hash: bytes) -> Session | None:
        owner = await _queries.lock_owner_of_token(connection, token_hash=token_hash)
        token = await _queries.find_refresh_token(
            connection, token_hash=token_hash, grace_s=float(self._settings.refresh_grace_s)
        )
        if owner is None or token is None or token["is_expired"]:
            return None
        if token["is_used"] and not token["is_forgiven"]:
            await _queries.end_family(connection, family_id=token["family_id"])
            failpoint("accounts.after_family")
            return None
        if not token["is_used"]:
            await _queries.mark_used(connection, token_hash=token_hash)
            failpoint("accounts.after_use")
            await _queries.delete_expired_tokens(connection, user_id=owner["id"])
            failpoint("accounts.after_cleaning")
        return await self._issue(connection, _account(owner), token["family_id"], token["generation"] + 1)

    async def logout(self, user_id: UUID, refresh_token: str) -> None:
        """End the family of a refresh token; nothing happens where it is not this user's."""
        async with self._pool.acquire() as connection, connection.transaction():
            await _queries.lock_user(connection, user_id=user_id)
            await _queries.end_family_of_token(connection, user_id=user_id, token_hash=_hash(refresh_token))
            failpoint("accounts.after_tokens")
        failpoint("accounts.after_logout")

    async def logout_all(self, user_id: UUID) -> None:
        """End every family of this user; access tokens live on until they expire."""
        async with self._pool.acquire() as connection, connection.transaction():
            await _queries.lock_user(connection, user_id=user_id)
            await _queries.end_all_families(connection, user_id=user_id)
            failpoint("accounts.after_all_tokens")
        failpoint("accounts.after_logout_everywhere")

    async def me(self, user_id: UUID) -> Account:
        """The account; raises NotFound for a user of another issuer."""
        row = await _queries.find_user(self._pool, user_id=user_id)
        if row is None:
            raise NotFound("There is no account here for this token's user")
        return _account(row)

    async def update(self, user_id: UUID, *, full_name: str | None = None) -> Account:
        """The account, changed; None leaves as it is."""
        if full_name is None:
            return await self.me(user_id)
        row = await _queries.update_full_name(
            self._pool, user_id=user_id, full_name=normal_full_name(full_name)
        )
        failpoint("accounts.after_name")
        if row is None:
            raise NotFound("There is no account here for this token's user")
        return _account(row)

    async def _new_family(self, connection: Connection, account: Account) -> Session:
        return await self._issue(connection, account, uuid4(), 0)

    async def _issue(
        self, connection: Connection, account: Account, family_id: UUID, generation: int
    ) -> Session:
        refresh_token = secrets.token_urlsafe(REFRESH_TOKEN_BYTES)
        await _queries.insert_refresh_token(
            connection,
            token_hash=_hash(refresh_token),
            family_id=family_id,
            user_id=account.id,
            generation=generation,
            ttl_s=float(self._settings.refresh_token_ttl_s),
        )
        failpoint("accounts.after_refresh_token")
        ttl_s = self._settings.access_token_ttl_s
        access_token = self._signer.sign(account.id, account.role, account.tenant_id, ttl_s=ttl_s)
        return Session(account, access_token, refresh_token, ttl_s)


def normal_email(email: str) -> str:
    """The e-mail as it is stored; raises ValidationFailed for what cannot be one."""
    normal = email.strip().lower()
    if len(normal) > EMAIL_CHARACTERS_MAX or not _EMAIL.fullmatch(normal):
        raise ValidationFailed("email", "is not an e-mail address")
    return normal


def normal_full_name(full_name: str) -> str:
    """The name without blanks around it; raises ValidationFailed where nothing or too much is left."""
    normal = full_name.strip()
    if not 1 <= len(normal) <= FULL_NAME_CHARACTERS_MAX:
        raise ValidationFailed("full_name", f"must have 1 to {FULL_NAME_CHARACTERS_MAX} characters")
    return normal


def check_password(password: str) -> None:
    """Raise ValidationFailed for a password that is too short, or longer than bcrypt reads."""
    if len(password) < PASSWORD_CHARACTERS_MIN:
        raise ValidationFailed("password", f"must have at least {PASSWORD_CHARACTERS_MIN} characters")
    if len(password.encode()) > PASSWORD_BYTES_MAX:
        raise ValidationFailed("password", f"must have at most {PASSWORD_BYTES_MAX} bytes")


def _hash(refresh_token: str) -> bytes:
    return hashlib.sha256(refresh_token.encode()).digest()


def _account(row: asyncpg.Record) -> Account:
    return Account(
        id=row["id"],
        tenant_id=row["tenant_id"],
        email=row["email"],
        full_name=row["full_name"],
        role=row["role"],
        email_verified=row["email_verified"],
        created_at_ms=to_ms(row["created_at"]),
    )
