"""What several tests share: the long proofs' switch and their figures."""

import signal
from collections.abc import Callable

import pytest

pytest_plugins = ["tests.servers", "tests.sftp"]


signal.signal(signal.SIGINT, signal.default_int_handler)
"""A shell starts what it puts in the background deaf to Ctrl-C, and so are all processes that are started there."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--prove", action="store_true", help="run the long proofs and print their figures")


def pytest_itemcollected(item: pytest.Item) -> None:
    """A test class may name clauses of the exam that are long proofs on its backend."""
    group = item.getparent(pytest.Class)
    long: tuple[str, ...] = getattr(group.obj, "prove", ()) if group else ()
    if any(f"[{clause}-" in item.name for clause in long):
        item.add_marker(pytest.mark.prove)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves the long proofs to `make prove`: deselected, not skipped, because nothing is missing here."""
    if config.getoption("--prove"):
        return
    long = [item for item in items if item.get_closest_marker("prove")]
    config.hook.pytest_deselected(items=long)
    items[:] = [item for item in items if item not in long]


@pytest.fixture
def record_figure(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Takes down what a proof came to; it is printed at the end, also by several workers."""
    return lambda figure: request.node.user_properties.append(("figure", figure))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints a line for each figure."""
    reports: list[pytest.TestReport] = terminalreporter.getreports("passed")
    for report in reports:
        for name, figure in report.user_properties:
            if name == "figure":
                terminalreporter.write_line(f"{report.nodeid.split('::')[-1]}: {figure}")
