"""`python -m dlfc.cli` is the program `dlfc`."""

import sys

from dlfc.cli.app import main

sys.exit(main())
