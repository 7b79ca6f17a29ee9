"""What several tests share: the long proofs' switch and their figures."""

from collections.abc import Callable

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--prove", action="store_true", help="run the long proofs and print their figures")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves the long proofs to `make prove`: deselected, not skipped, because nothing is missing here."""
    if config.getoption("--prove"):
        return
    long = [item for item in items if item.get_closest_marker("prove")]
    config.hook.pytest_deselected(items=long)
    items[:] = [item for item in items if item not in long]


@pytest.fixture
def record_figure(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Prints a proof's figure as one line."""

    def show(figure: str) -> None:
        print(f"\n{request.node.name}: {figure}", flush=True)

    return show
