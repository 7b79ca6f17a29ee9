"""docs/CLI.md says what the command says of itself, all of it."""

from tests.cli_document import DOCUMENT, document


def test_the_document_is_what_the_command_says_today() -> None:
    assert DOCUMENT.read_text() == document(), "run `python -m tests.cli_document`"


def test_the_document_has_each_command_with_an_example() -> None:
    for section in document().split("\n## ")[1:]:
        name = section.partition("\n")[0]
        assert f"Usage: durable-store {name} " in section
        assert f"Example: durable-store {name} " in section
        assert "-h, --help" in section
