"""What `generate` says about a prompt that is allowed and probably not meant."""

from __future__ import annotations

import pytest

from lora_ext.cli.generate import warn_of_tags


@pytest.mark.parametrize("text", ["a <lora:cat", "a <lora> b", "a <hypernet:x:1>", "a <Lora:cat:1>", "a < lora:cat:1>"])
def test_a_tag_that_is_none_is_told(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    warn_of_tags(text)
    assert "is read as words" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["a cat", "1 < 2 > 1", "<loratory>"])
def test_plain_words_are_not(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    warn_of_tags(text)
    assert capsys.readouterr().err == ""
