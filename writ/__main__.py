"""`python -m writ`: the command line."""

import sys

from writ.cli import main

if __name__ == "__main__":
    sys.exit(main())
