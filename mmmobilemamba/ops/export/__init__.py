"""Forms for graphs that leave PyTorch, in standard operators."""
