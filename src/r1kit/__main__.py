"""`python -m r1kit` is the `r1kit` command."""

import sys

from r1kit.cli import main

if __name__ == "__main__":
    sys.exit(main())
