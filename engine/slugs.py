"""Slugs: names as they stand in addresses, `[a-z0-9-]{1,100}`."""

import hashlib
import re
import secrets
import unicodedata

SLUG_CHARACTERS_MAX = 100
SUFFIX_CHARACTERS = 6


def slug_of(name: str) -> str:
    """The slug that a name always leads to; a name without Latin letters leads to a hash of itself."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    slug = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:SLUG_CHARACTERS_MAX].strip("-")
    return slug or "n-" + hashlib.sha256(name.encode()).hexdigest()[:12]


def with_suffix(slug: str) -> str:
    """The slug with a random end, for one that is taken."""
    suffix = secrets.token_hex(SUFFIX_CHARACTERS // 2)
    return f"{slug[: SLUG_CHARACTERS_MAX - SUFFIX_CHARACTERS - 1].strip('-')}-{suffix}"
