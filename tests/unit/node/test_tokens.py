"""Tokens: their form, and who shows one."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest

from logbroker.errors import ConfigurationError, InvariantError, UnauthenticatedError
from logbroker.node.catalogue.rights import ANYBODY, ROOT, Principal
from logbroker.node.tokens import authenticate, make_token, read_root_token, token_digest

if TYPE_CHECKING:
    from pathlib import Path

ANN = Principal("ann", ())
TOKEN = make_token(bytes(range(32)))


def who(token: str, *, tokens_on: bool = True, root: str | None = None) -> Principal:
    return authenticate(
        token,
        tokens_on=tokens_on,
        root_digest=token_digest(root) if root else None,
        find={token_digest(TOKEN): ANN}.get,
    )


def test_a_token_is_url_safe_text_that_shows_what_it_is() -> None:
    assert TOKEN == "lb1_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"
    assert make_token(b"\xff" * 32) == "lb1_" + "_" * 42 + "8"


def test_a_token_is_made_from_enough_randomness() -> None:
    with pytest.raises(InvariantError):
        make_token(bytes(16))


def test_what_is_kept_of_a_token_is_its_sha_256() -> None:
    assert token_digest("abc") == hashlib.sha256(b"abc").digest()
    assert len(token_digest("\ud800")) == 32, "no text from the wire may raise"


def test_whoever_shows_a_token_is_who_it_was_made_for() -> None:
    assert who(TOKEN) is ANN


def test_the_root_token_may_do_everything() -> None:
    assert who("r" * 40, root="r" * 40) is ROOT


def test_everybody_is_anybody_where_tokens_are_off() -> None:
    assert who("", tokens_on=False) is ANYBODY
    assert who("nonsense", tokens_on=False) is ANYBODY


@pytest.mark.parametrize("token", ["", "lb1_wrong", TOKEN + "x", TOKEN[:-1], TOKEN.lower(), "x" * 10_000])
def test_any_other_token_is_refused_and_not_repeated(token: str) -> None:
    with pytest.raises(UnauthenticatedError) as raised:
        who(token, root="r" * 40)
    assert not token or token not in f"{raised.value.message}{raised.value.hint}"


def test_the_root_token_is_read_from_its_file(tmp_path: Path) -> None:
    file = tmp_path / "root"
    file.write_text(f"\n {TOKEN} \n")
    file.chmod(0o600)
    assert read_root_token(file) == token_digest(TOKEN)


@pytest.mark.parametrize(
    "content", [b"", b"short", b"x" * 513, b"two words that are long enough together", b"\xff" * 40]
)
def test_a_file_that_holds_no_token_is_refused_without_showing_it(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "root"
    file.write_bytes(content)
    file.chmod(0o600)
    with pytest.raises(ConfigurationError) as raised:
        read_root_token(file)
    assert "two words" not in raised.value.message


def test_a_root_token_that_others_can_write_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "root"
    file.write_text(TOKEN)
    file.chmod(0o620)
    with pytest.raises(ConfigurationError, match="written by others"):
        read_root_token(file)
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_root_token(tmp_path / "none")
