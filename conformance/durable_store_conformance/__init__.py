"""The conformance suite: inherit `StoreConformance`, yield a URL, and pytest examines your backend.

    class TestMine(StoreConformance):
        @pytest.fixture
        def url(self, tmp_path):
            return f"mine://{tmp_path}/store"

The URL names a store that nobody has written to, a new one for each clause, and *another process can open it*: the
clauses start fresh interpreters, kill them and race them. The clauses cannot be left out or replaced.
"""

import pkgutil

import pytest

pytest.register_assert_rewrite(*(module.name for module in pkgutil.iter_modules(__path__, f"{__name__}.")))

from durable_store_conformance.conformance import StoreConformance  # noqa: E402 - its asserts are to be rewritten

__all__ = ["StoreConformance"]
