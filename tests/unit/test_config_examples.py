"""Every file in conf.d loads, alone or as it is meant to be included, without a problem or a warning."""

from __future__ import annotations

from pathlib import Path

import pytest

from highlanderd.config import SECTIONS, ProgramKeys, load
from tests.support.configuration import POSTGRES

EXAMPLES = sorted((Path(__file__).parents[2] / "conf.d").glob("*.toml"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_an_example_loads(example: Path, tmp_path: Path) -> None:
    main = example
    if "[postgres]" not in example.read_text():
        main = tmp_path / "highlander.toml"
        main.write_text(f'{POSTGRES}[daemon]\ninclude = ["{example}"]\n')
    result = load(main, {"PATH": "/usr/bin:/bin"})
    assert result.warnings == ()
    assert result.configuration.programs


def test_there_are_examples() -> None:
    assert {"celery-beat.toml", "outbox-relay.toml", "telegram-poller.toml"} <= {path.name for path in EXAMPLES}


@pytest.mark.parametrize("model", [*SECTIONS.values(), ProgramKeys], ids=lambda model: model.__name__)
def test_every_key_is_described_in_sentences(model: type[ProgramKeys]) -> None:
    for name, field in model.model_fields.items():
        described = field.description or ""
        assert described.endswith("."), f"{model.__name__}.{name}: {described!r}"
