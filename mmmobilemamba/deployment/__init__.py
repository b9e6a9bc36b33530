"""Networks as graphs that leave PyTorch; for tools/deployment."""
