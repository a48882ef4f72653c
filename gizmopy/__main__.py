"""``python -m gizmopy`` is the ``gizmopy`` command."""

import os
import sys

# Python puts the working directory first for ``-m``, where a setting that names code, or a library
# that is imported late, would be looked for. A command that takes a service puts it back for that.
if not sys.flags.safe_path and sys.path[0] in ("", os.getcwd()):  # noqa: PTH109 -- pathlib may be one that lies there
    del sys.path[0]

from gizmopy.cli import main

sys.exit(main())
