"""``python -m counterpoint.engine.cli``."""

import sys

from counterpoint.engine.cli import main

sys.exit(main())
