"""The fuzzer itself: that it finds what is there, and says so where it cannot look."""

from __future__ import annotations

import pytest

from tests.fuzz import __main__ as fuzz
from tests.fuzz.decoders import DECODERS, Decoder


def test_a_planted_mistake_is_found(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def decode(data: bytes) -> object:
        return data[3]

    monkeypatch.setitem(DECODERS, "planted", Decoder(decode, (ValueError,), [b"good"]))
    assert fuzz.main(["planted", "--blind", "--seconds", "5"]) == 1
    assert "planted: FAILED on " in capsys.readouterr().out


def test_a_sound_decoder_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    assert fuzz.main(["entry", "--blind", "--seconds", "0.05"]) == 0
    assert capsys.readouterr().out.startswith("entry: ")


def test_without_atheris_it_says_that_it_was_skipped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "atheris", None)
    assert fuzz.main(["entry"]) == 0
    assert capsys.readouterr().out.startswith("SKIPPED: atheris is not installed")


def test_names_that_nobody_has_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        fuzz.main(["nobody"])
    assert "no decoder is called 'nobody'" in capsys.readouterr().err
