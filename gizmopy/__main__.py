"""``python -m gizmopy`` is the ``gizmopy`` command."""

import os
import sys

# ``python -m`` puts the working directory first on the import path. A setting that names code, or a
# library that is imported late, would then be imported from there, although any user may have
# written the file. A command that runs a service adds the directory again, if the service is in it.
if not sys.flags.safe_path and sys.path[0] in ("", os.getcwd()):  # noqa: PTH109 -- importing pathlib could import a file of the directory
    del sys.path[0]

from gizmopy.cli import main

sys.exit(main())
