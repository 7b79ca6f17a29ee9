"""The clauses, by what they are about. `registry.py` says what a clause is."""

import pkgutil

import pytest

# What a clause asserts, an outsider sees with both values.
pytest.register_assert_rewrite(*(module.name for module in pkgutil.iter_modules(__path__, f"{__name__}.")))
