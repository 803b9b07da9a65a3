"""Errors of the graph passes."""

from __future__ import annotations

from targets.errors import CodesignError


class PassError(CodesignError):
    """A pass was asked for something that the model, the site or the target cannot give."""
