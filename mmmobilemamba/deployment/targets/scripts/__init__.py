"""Programs that convert a file in a process, and perhaps an environment, of its own; nothing imports them."""
