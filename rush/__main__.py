"""`python -m rush` is the `rush` command."""

import sys

from rush.cli import main

sys.exit(main())
