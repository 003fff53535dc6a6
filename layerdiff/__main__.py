"""`python -m layerdiff`."""

import sys

from layerdiff.cli import main

if __name__ == "__main__":
    sys.exit(main())
