"""stepsmith.templates: how it is written.  Jinja templates and printers; imports only the program types of derive."""

from .dialects import attach
from .render import emit

__all__ = ["attach", "emit"]
