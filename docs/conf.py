"""Configure the documentation site: `make docs` builds it in docs/_build/html."""

import re
from typing import Any

from sphinx.application import Sphinx

import gizmopy

project = "gizmopy"
author = "the gizmopy authors"
project_copyright = "the gizmopy authors, Apache License 2.0"
version = release = gizmopy.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_build"]

# A link to a heading is written as GitHub writes it: guides/testing.md#time.
myst_heading_anchors = 3
myst_enable_extensions = ["deflist"]

# The signature has the types. Names from a package's __all__ are shown under the name that users
# import, whichever module defines them.
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
autodoc_class_signature = "mixed"
autodoc_default_options = {"members": True}
python_maximum_signature_line_length = 88

html_theme = "furo"
html_title = f"gizmopy {release}"
html_show_sphinx = False
html_copy_source = False
html_static_path = ["_static"]
html_css_files = ["site.css"]
# No web font and nothing from another host: the pages work without the internet.
html_theme_options = {
    "light_css_variables": {"font-stack": "system-ui, sans-serif"},
    "dark_css_variables": {"font-stack": "system-ui, sans-serif"},
}


def prepare_docstring(
    _app: Sphinx, what: str, _name: str, _obj: Any, _options: Any, lines: list[str]
) -> None:
    """Make a docstring that is written for `help()` readable for Sphinx.

    A module's docstring is left out, because the page that shows the module introduces it. A
    paragraph that ends with a colon makes the indented lines below it a literal block.
    """
    if what == "module":
        lines.clear()
        return
    lines[:] = [re.sub(r"(``\w+``)s\b", r"\1\\ s", line) for line in lines]  # ``Message``s
    for number, line in enumerate(lines[:-2]):
        below = next((text for text in lines[number + 1 :] if text.strip()), "")
        is_followed = not lines[number + 1].strip() and below.startswith(_indent(line) + "  ")
        if line.rstrip().endswith(":") and not line.rstrip().endswith("::") and is_followed:
            lines[number] = f"{line.rstrip()}:"


def _indent(line: str) -> str:
    found = re.match(" *", line)
    return found.group() if found else ""


def setup(app: Sphinx) -> None:
    """Connect the function above to autodoc."""
    app.connect("autodoc-process-docstring", prepare_docstring)
