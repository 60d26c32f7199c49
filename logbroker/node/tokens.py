"""Access tokens: their form, their digest, and the file with the root token.

A token has 256 random bits, so one SHA-256 is all that has to be kept of it. Randomness comes in as an argument.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import stat
from typing import TYPE_CHECKING

from logbroker.errors import ConfigurationError, UnauthenticatedError, invariant
from logbroker.node.catalogue.rights import ANYBODY, ROOT, Principal

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TOKEN_PREFIX = "lb1_"
"""Lets people and secret scanners tell a token from any other text."""
RANDOM_BYTES = 32
MIN_ROOT_TOKEN_CHARACTERS = 32
MAX_TOKEN_CHARACTERS = 512


def make_token(random: bytes) -> str:
    """Give the token for 32 random bytes."""
    invariant(len(random) == RANDOM_BYTES, f"a token is made from {RANDOM_BYTES} random bytes, not {len(random)}")
    return TOKEN_PREFIX + base64.urlsafe_b64encode(random).decode().rstrip("=")


def token_digest(token: str) -> bytes:
    """Give the 32 bytes that are kept of a token; any text has some."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def read_root_token(path: Path) -> bytes:
    """Give the digest of the token in the file at `path`, blanks around it left out.

    Raises:
        ConfigurationError: it cannot be read, others than its owner may write it, or it holds no token that is long
            enough not to be guessed.
    """
    try:
        mode = path.stat().st_mode
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"root token file {path} cannot be read: {error}") from error
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ConfigurationError(f"root token file {path} can be written by others than its owner", hint="chmod 0600")
    if not MIN_ROOT_TOKEN_CHARACTERS <= len(text) <= MAX_TOKEN_CHARACTERS or len(text.split()) != 1:
        raise ConfigurationError(
            f"root token file {path} does not hold one word of {MIN_ROOT_TOKEN_CHARACTERS} to {MAX_TOKEN_CHARACTERS} "
            "characters",
            hint="make one with: logbroker token generate",
        )
    return token_digest(text)


def authenticate(
    token: str, *, tokens_on: bool, root_digest: bytes | None, find: Callable[[bytes], Principal | None]
) -> Principal:
    """Say who shows `token`; `find` looks a digest up in the catalogue.

    Raises:
        UnauthenticatedError: tokens are needed and this is none that is known. The message does not repeat it.
    """
    if not tokens_on:
        return ANYBODY
    if not token:
        raise UnauthenticatedError("this cluster needs a token", hint="give it with --token or LOGBROKER_TOKEN")
    digest = token_digest(token)
    if root_digest is not None and hmac.compare_digest(digest, root_digest):
        return ROOT
    principal = find(digest) if len(token) <= MAX_TOKEN_CHARACTERS else None
    if principal is None:
        raise UnauthenticatedError("the token is not known to this cluster", hint="it may have been deleted")
    return principal
