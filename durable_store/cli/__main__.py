"""`python -m durable_store.cli` is `durable-store`."""

import sys

from durable_store.cli import main

if __name__ == "__main__":
    sys.exit(main())
