"""What helps users and maintainers: ``python -m mmmobilemamba.utils.collect_env``."""
