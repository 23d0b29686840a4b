"""Public randomness: rounds of drand are understood, and what is not theirs is found out."""

import hashlib
import struct

import pytest

from engine.waiting import randomness
from engine.waiting.randomness import CHAINS, Chain, DrandRound, check_value, drand_round, is_signed

QUICKNET = "52db9ba70e0cc0f6eaf7803dd07447a1f5477735fd3f661792ba94600c84e971"
DEFAULT = "8990e7a9aaed2ffed73dbd7092123d6f289930540d7651336225dc172e51b2ce"

# Two rounds as they came out, from the examples of the library `drand-verify`.
QUICK_ROUND = drand_round(f"drand:{QUICKNET}:657413")
QUICK_SIGNATURE = bytes.fromhex(
    "b713718a38ae728dfd477991af2822e08d2f305e47718cef9f7848ce4050e7be41076862b98fad56e91a6b85b89cd97b"
)
QUICK_VALUE = bytes.fromhex("fc1873a13f3545aeade8401532ef5519920652eee6b0d2b19ca12643b87b3587")
SLOW_ROUND = drand_round(f"drand:{DEFAULT}:3311596")
SLOW_BEFORE = bytes.fromhex(
    "8ed588f2a7716fb1349e2d9803da5db0005e98a83783c353d4a08f183236a9ad91d70ddb01266f4b7c576983db464b43"
    "0e65680b9e0098552758afd6c1e6afcb77e3f62fe1b93d42d1cb63abbb2205512fe12fbf74ea9c5ac3b8f5c1e283a1d8"
)
SLOW_SIGNATURE = bytes.fromhex(
    "a696b9409ababce45749c3a4ec369074453dd4a79967734e1390d969c8ad8d98897d217b9121e92c8ddebbddda8d92f9"
    "00e3bd6bf9deb166863b1a19390d743f82774001487594c5c09e581db7365f02b70a2c8cc41ce32446ef08e4890c4754"
)
SLOW_VALUE = bytes.fromhex("647c07b2abbf7ff2afb4d670214f565e5cd9f9c91bfdcecb59a21f3c78d73920")


def test_the_chains_are_those_that_their_hashes_commit_to() -> None:
    # The hash is over period, beginning, key and group: none of them can have been misspelled.
    assert {chain_hash: chain.name for chain_hash, chain in CHAINS.items()} == {
        QUICKNET: "quicknet",
        DEFAULT: "default",
    }


def test_a_round_comes_out_when_its_chain_says() -> None:
    assert drand_round(f"drand:{QUICKNET}:1") == DrandRound(QUICKNET, 1)
    assert DrandRound(QUICKNET, 1).at_s == 1_692_803_367
    assert DrandRound(DEFAULT, 11).at_s == 1_595_431_050 + 300
    assert DrandRound("0" * 64, 1).at_s is None


@pytest.mark.parametrize("text", ["the lottery numbers of 1 May 2027", "Drand:x", "3"])
def test_any_other_round_is_what_its_name_says(text: str) -> None:
    assert drand_round(text) is None
    check_value(text, b"7 11 13 17 23 42", None)


@pytest.mark.parametrize(
    "text",
    [
        "drand:", f"drand:{QUICKNET}", f"drand:{QUICKNET}:0", f"drand:{QUICKNET}:01", f"drand:{QUICKNET}:1 ",
        f"drand:{QUICKNET.upper()}:1", f"drand:{QUICKNET[:-1]}:1", f"drand:{QUICKNET}:{1 << 63}",
    ],
)  # fmt: skip
def test_what_is_meant_to_be_of_drand_has_its_form(text: str) -> None:
    with pytest.raises(ValueError, match="is not drand"):
        drand_round(text)


def test_the_randomness_of_a_round_is_the_hash_of_its_signature() -> None:
    name = f"drand:{QUICKNET}:657413"
    check_value(name, QUICK_VALUE, QUICK_SIGNATURE)
    check_value(name, QUICK_VALUE, None)
    for value, signature in (
        (SLOW_VALUE, QUICK_SIGNATURE),
        (QUICK_VALUE[:-1], None),
        (b"", None),
        (QUICK_VALUE, b""),
    ):
        with pytest.raises(ValueError):
            check_value(name, value, signature)
    with pytest.raises(ValueError):
        check_value("a lottery", bytes(1025), None)


def test_rounds_that_came_out_are_signed_by_their_chains() -> None:
    assert QUICK_ROUND is not None
    assert SLOW_ROUND is not None
    assert is_signed(QUICK_ROUND, QUICK_SIGNATURE) is True
    assert is_signed(SLOW_ROUND, SLOW_SIGNATURE, SLOW_BEFORE) is True
    assert hashlib.sha256(SLOW_SIGNATURE).digest() == SLOW_VALUE
    # Another round, or with another one before it.
    assert is_signed(DrandRound(QUICKNET, 657414), QUICK_SIGNATURE) is False
    assert is_signed(SLOW_ROUND, SLOW_SIGNATURE, SLOW_SIGNATURE) is False


def test_a_key_of_ones_own_signs_and_only_what_it_signed_is_taken() -> None:
    from py_ecc.bls.hash_to_curve import hash_to_G1
    from py_ecc.bls.point_compression import compress_G1, compress_G2
    from py_ecc.optimized_bls12_381 import G2, Z1, multiply

    secret = int.from_bytes(hashlib.sha256(b"a secret key").digest()) >> 2
    x, y = compress_G2(multiply(G2, secret))
    key = x.to_bytes(48) + y.to_bytes(48)
    chain = Chain(name="own", period_s=3, genesis_s=0, public_key=key, group_hash=bytes(32), is_chained=False)
    named = DrandRound(chain.hash, 7)
    message = hashlib.sha256(struct.pack(">Q", 7)).digest()
    point = hash_to_G1(message, randomness._ON_G1, hashlib.sha256)
    signature = compress_G1(multiply(point, secret)).to_bytes(48)
    assert is_signed(named, signature, chain=chain) is True
    # Nobody knows this chain unless told of it.
    assert is_signed(named, signature) is None
    assert is_signed(named, compress_G1(multiply(point, secret + 1)).to_bytes(48), chain=chain) is False
    for no_point in (b"", bytes(48), b"\xff" * 48, compress_G1(Z1).to_bytes(48), bytes(96)):
        assert is_signed(named, no_point, chain=chain) is False


def test_without_the_library_or_the_signature_before_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert QUICK_ROUND is not None
    assert SLOW_ROUND is not None
    assert is_signed(SLOW_ROUND, SLOW_SIGNATURE) is None
    monkeypatch.setattr(randomness, "can_check_signatures", lambda: False)
    assert is_signed(QUICK_ROUND, QUICK_SIGNATURE) is None
