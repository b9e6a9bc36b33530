"""Utilities for users and maintainers, such as ``python -m mmmobilemamba.utils.collect_env``."""

from .codebase import codebase_of
from .configs import config_argument, config_path, read_config

__all__ = ['codebase_of', 'config_argument', 'config_path', 'read_config']
