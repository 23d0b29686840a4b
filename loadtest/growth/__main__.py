"""`python -m loadtest.growth`."""

import sys

from loadtest.growth.run import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
