"""``python -m gizmopy`` is the ``gizmopy`` command."""

import sys

from gizmopy.cli import main

sys.exit(main())
