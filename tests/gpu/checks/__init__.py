"""All checks, in the order in which they run."""
from . import machine, templates, results, groups, failures, costs, python_ddp  # noqa: F401: each adds its checks
from .base import CHECKS
from .python_ddp import tables

__all__ = ["CHECKS", "tables"]
