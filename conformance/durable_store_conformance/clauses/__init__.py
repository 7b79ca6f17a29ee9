"""The clauses, by what they are about. `registry.py` says what a clause is."""
