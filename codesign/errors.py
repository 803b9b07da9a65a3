"""Errors of the loop and of what a user calls."""

from __future__ import annotations

from targets.errors import CodesignError


class UserError(CodesignError):
    """Something the user gave or asked for cannot be used; it ends with exit code 2."""
