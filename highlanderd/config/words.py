"""The words of a command as people write it: an array, or one string."""

from __future__ import annotations

import shlex

from highlanderd.config.values import kind, text


def words(command: object) -> tuple[str, ...]:
    """Return the words of a command as configured. Raises ValueError with a sentence."""
    if isinstance(command, str):
        try:
            found = tuple(shlex.split(command))
        except ValueError as error:
            raise ValueError(
                f"cannot be split into words ({str(error).lower()}); close the quotes, or write an array"
            ) from None
    elif isinstance(command, list | tuple):
        found = tuple(_word(number, word) for number, word in enumerate(command, 1))
    else:
        raise ValueError(f'is {kind(command)}; write an array, such as ["celery", "beat"], or one string')
    if not found or not found[0]:
        raise ValueError('is empty; write a command, such as ["celery", "beat"]')
    return found


def _word(number: int, word: object) -> str:
    try:
        return text(word)
    except ValueError as error:
        raise ValueError(f"word {number} {error}") from None
