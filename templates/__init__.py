"""stepsmith.templates: how it is written.  Jinja templates and printers; imports only the program types of derive."""

from .render import emit

__all__ = ["emit"]
