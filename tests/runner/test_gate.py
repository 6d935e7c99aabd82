import pytest

from automigrator.errors import ConfigurationError
from automigrator.runner import modes


@pytest.mark.parametrize("word", ["1", "true", "YES", " on "])
def test_truthy_words_ask_for_migration(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUN_MIGRATIONS", word)
    assert modes.resolve(None) == "migrate"


def test_an_unset_variable_skips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RUN_MIGRATIONS", raising=False)
    assert modes.resolve(None) == "skip"


def test_an_unknown_word_is_an_error_that_names_the_values(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RUN_MIGRATIONS", "maybe")
    with pytest.raises(ConfigurationError, match="check to raise"):
        modes.resolve(None)


def test_a_mode_given_in_code_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUN_MIGRATIONS", "1")
    assert modes.resolve("check") == "check"
