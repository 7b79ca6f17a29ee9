"""What a commit costs, beside peers and beside what the disk alone takes: docs/BENCHMARKS.md.

    python -m benchmarks.bench                                  measures everything, writes the document and its plots
    python -m benchmarks.bench --only GROUP [...] [--rounds N]  measures these again, and leaves the rest as it was
    python -m benchmarks.bench --trial                          a small fraction of it, into `.bench/trial/`

Nothing of it is in the wheel. The peers live in an environment of their own, `.bench/`.
"""
