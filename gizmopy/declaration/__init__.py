"""Read the declarations of a service once, at start: marked methods and their signatures.

An endpoint and a message handler are both declared by a decorator on an async method and by the
method's signature. A mistake raises an error with its file and line before the daemon starts.
"""

from gizmopy.declaration.calls import reports_wrong_calls
from gizmopy.declaration.members import add_mark, declared_methods, undeclared_functions
from gizmopy.declaration.signatures import (
    REQUIRED,
    Parameter,
    Signature,
    check_async,
    is_generator,
    read_signature,
)

__all__ = [
    "REQUIRED",
    "Parameter",
    "Signature",
    "add_mark",
    "check_async",
    "declared_methods",
    "is_generator",
    "read_signature",
    "reports_wrong_calls",
    "undeclared_functions",
]
