"""Public randomness: what a draw waits for, so that not even the house could have known it beforehand.

A waiting room may name a `public_round` of any kind. One form is understood: `drand:<chain hash>:<round>`,
a round of the beacon that the League of Entropy runs (drand.love). Its randomness is the SHA-256 of its
signature, and that is always checked where a signature is given. The signature itself, BLS on BLS12-381 (RFC
9380 for its points), must be given for the two chains below, and is checked where py_ecc is installed: the
extra `drand`.
"""

import hashlib
import re
import struct
from importlib.util import find_spec
from typing import Any

import msgspec

DIGEST_BYTES = 32
VALUE_BYTES_MAX = 1_024
"""Of a public value of a kind that we know nothing about."""
ROUND_MAX = (1 << 63) - 1

_DRAND = re.compile(r"drand:([0-9a-f]{64}):([1-9][0-9]{0,18})", re.ASCII)
_ON_G1 = b"BLS_SIG_BLS12381G1_XMD:SHA-256_SSWU_RO_NUL_"
_ON_G2 = b"BLS_SIG_BLS12381G2_XMD:SHA-256_SSWU_RO_NUL_"


class Chain(msgspec.Struct, frozen=True, kw_only=True):
    """A chain of drand, as its `/info` says it. Its hash commits to all of it."""

    name: str
    period_s: int
    genesis_s: int
    public_key: bytes
    group_hash: bytes
    is_chained: bool
    """Whether a round signs the signature before it too. Such a chain's key is a point of G1 and its
    signatures are of G2; of the others it is the other way round."""

    @property
    def hash(self) -> str:
        """What `drand:<chain hash>:…` names."""
        said = struct.pack(">Iq", self.period_s, self.genesis_s) + self.public_key + self.group_hash
        name = b"" if self.name == "default" else self.name.encode()
        return hashlib.sha256(said + name).hexdigest()


_QUICKNET = Chain(
    name="quicknet",
    period_s=3,
    genesis_s=1_692_803_367,
    public_key=bytes.fromhex(
        "83cf0f2896adee7eb8b5f01fcad3912212c437e0073e911fb90022d3e760183c8c4b450b6a0a6c3ac6a5776a2d106451"
        "0d1fec758c921cc22b0e17e63aaf4bcb5ed66304de9cf809bd274ca73bab4af5a6e9c76a4bc09e76eae8991ef5ece45a"
    ),
    group_hash=bytes.fromhex("f477d5c89f21a17c863a7f937c6a6d15859414d2be09cd448d4279af331c5d3e"),
    is_chained=False,
)
_DEFAULT = Chain(
    name="default",
    period_s=30,
    genesis_s=1_595_431_050,
    public_key=bytes.fromhex(
        "868f005eb8e6e4ca0a47c8a77ceaa5309a47978a7c71bc5cce96366b5d7a569937c529eeda66c7293784a9402801af31"
    ),
    group_hash=bytes.fromhex("176f93498eac9ca337150b46d21dd58673ea4e3581185f869672e59fa4cb390a"),
    is_chained=True,
)
CHAINS = {chain.hash: chain for chain in (_QUICKNET, _DEFAULT)}


class DrandRound(msgspec.Struct, frozen=True):
    """A round of drand that a draw waits for."""

    chain_hash: str
    number: int

    @property
    def chain(self) -> Chain | None:
        """What is known of its chain."""
        return CHAINS.get(self.chain_hash)

    @property
    def at_s(self) -> int | None:
        """When it comes out (Unix s), where its chain is known."""
        chain = self.chain
        return None if chain is None else chain.genesis_s + (self.number - 1) * chain.period_s


def drand_round(public_round: str) -> DrandRound | None:
    """The round of drand that this names, None where it names something else; raises ValueError where it is
    meant to be one and is not of its form."""
    if not public_round.startswith("drand:"):
        return None
    match = _DRAND.fullmatch(public_round)
    if match is None or int(match[2]) > ROUND_MAX:
        raise ValueError("is not drand:<chain hash, 64 hex digits>:<round>")
    return DrandRound(match[1], int(match[2]))


def check_value(public_round: str, randomness: bytes, signature: bytes | None) -> None:
    """Raise ValueError where this cannot be the round's randomness."""
    if not 0 < len(randomness) <= VALUE_BYTES_MAX:
        raise ValueError(f"has {len(randomness)} bytes: 1 to {VALUE_BYTES_MAX}")
    if drand_round(public_round) is not None and len(randomness) != DIGEST_BYTES:
        raise ValueError("is not of drand: that has 32 bytes")
    if signature is not None and hashlib.sha256(signature).digest() != randomness:
        raise ValueError("is not the SHA-256 of the signature")


def can_check_signatures() -> bool:
    """Whether py_ecc is installed."""
    return find_spec("py_ecc") is not None


def why_unchecked(named: DrandRound, previous_signature: bytes | None = None) -> str | None:
    """Why `is_signed` cannot tell; None where it can."""
    if named.chain is None:
        return "is of a chain whose key is not known here"
    if named.chain.is_chained and previous_signature is None:
        return "needs the one of the round before to be checked"
    if not can_check_signatures():
        return "needs py_ecc to be checked: pip install py_ecc"
    return None


def is_signed(
    named: DrandRound,
    signature: bytes,
    previous_signature: bytes | None = None,
    *,
    chain: Chain | None = None,
) -> bool | None:
    """Whether the chain signed this round so; None where it cannot be told, for want of the chain's key, of
    py_ecc or, of a chained one, of the signature before. Takes some seconds of pure computing."""
    chain = chain or named.chain
    if chain is None or (chain.is_chained and previous_signature is None) or not can_check_signatures():
        return None
    before = previous_signature if chain.is_chained and previous_signature else b""
    message = hashlib.sha256(before + struct.pack(">Q", named.number)).digest()
    try:
        return _pairs_up(chain, message, signature)
    # A text that is no point of the curve.
    except (ValueError, AssertionError):
        return False


def _pairs_up(chain: Chain, message: bytes, signature: bytes) -> bool:
    from py_ecc.bls.g2_primitives import subgroup_check
    from py_ecc.bls.hash_to_curve import hash_to_G1, hash_to_G2
    from py_ecc.optimized_bls12_381 import G1, G2, is_inf, pairing

    if chain.is_chained:
        key, signed = _point_1(chain.public_key), _point_2(signature)
        said = hash_to_G2(message, _ON_G2, hashlib.sha256)
    else:
        key, signed = _point_2(chain.public_key), _point_1(signature)
        said = hash_to_G1(message, _ON_G1, hashlib.sha256)
    if is_inf(key) or is_inf(signed) or not (subgroup_check(key) and subgroup_check(signed)):
        return False
    if chain.is_chained:
        return bool(pairing(signed, G1) == pairing(said, key))
    return bool(pairing(G2, signed) == pairing(key, said))


def _point_1(text: bytes) -> Any:
    from py_ecc.bls.point_compression import decompress_G1

    if len(text) != 48:
        raise ValueError("a point of G1 has 48 bytes")
    return decompress_G1(int.from_bytes(text))


def _point_2(text: bytes) -> Any:
    from py_ecc.bls.point_compression import decompress_G2

    if len(text) != 96:
        raise ValueError("a point of G2 has 96 bytes")
    return decompress_G2((int.from_bytes(text[:48]), int.from_bytes(text[48:])))
