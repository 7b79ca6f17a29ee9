"""The conformance suite: inherit `StoreConformance`, yield a URL, and pytest examines your backend.

    class TestMine(StoreConformance):
        @pytest.fixture
        def url(self, tmp_path):
            return f"mine://{tmp_path}/store"

The URL names a store that nobody has written to, a new one for each clause, and *another process can open it*: the
clauses start fresh interpreters, kill them and race them. The clauses cannot be left out or replaced. Without a test
of your own, `durable-store conformance URL` sits the same exam.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from durable_store_conformance.conformance import StoreConformance

__all__ = ["StoreConformance"]


def __getattr__(name: str) -> Any:
    """Imports the exam, and with it pytest, when somebody asks for it: the child processes of the exam do not."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from durable_store_conformance.conformance import StoreConformance  # noqa: PLC0415

    return StoreConformance
