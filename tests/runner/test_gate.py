import pytest

from automigrator.errors import ConfigurationError
from automigrator.runner import modes


@pytest.mark.parametrize("word", ["1", "true", "YES", " on "])
def test_truthy_words_ask_for_migration(word: str) -> None:
    assert modes.resolve(None, {"RUN_MIGRATIONS": word}) == "migrate"


def test_an_unset_variable_skips() -> None:
    assert modes.resolve(None, {}) == "skip"


def test_an_unknown_word_is_an_error_that_names_the_values() -> None:
    with pytest.raises(ConfigurationError, match="check to raise"):
        modes.resolve(None, {"RUN_MIGRATIONS": "maybe"})


def test_a_mode_given_in_code_wins_over_the_environment() -> None:
    assert modes.resolve("check", {"RUN_MIGRATIONS": "1"}) == "check"
