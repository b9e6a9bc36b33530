"""What helps users and maintainers: ``python -m mmmobilemamba.utils.collect_env``."""

from .codebase import codebase_of

__all__ = ['codebase_of']
