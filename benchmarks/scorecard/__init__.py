"""How checkpoint stores of other projects answer the questions of the conformance suite: docs/SCORECARD.md.

    python -m benchmarks.scorecard                               asks all, writes the document
    python -m benchmarks.scorecard --only SYSTEM CLAUSE [...]    asks these, shows what happens, writes nothing

Nothing of it is in the wheel. The systems live in an environment of their own, `.scorecard/`.
"""
