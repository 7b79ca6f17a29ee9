"""The conformance suite: inherit `StoreConformance`, yield a URL, and pytest examines your backend.

    class TestMine(StoreConformance):
        @pytest.fixture
        def url(self, tmp_path):
            return f"mine://{tmp_path}/store"

The URL names a store that nobody has written to, a new one for each clause, and *another process can open it*: the
clauses start fresh interpreters, kill them and race them. The clauses cannot be left out or replaced. Without a test
of your own, `durable-store conformance URL` sits the same exam.
"""

import pytest

pytest.register_assert_rewrite(f"{__name__}.clauses")

from durable_store_conformance.conformance import StoreConformance  # noqa: E402 - its asserts are to be rewritten

__all__ = ["StoreConformance"]
