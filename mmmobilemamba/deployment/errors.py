class DeploymentError(RuntimeError):
    """A network cannot leave PyTorch; the message says why and what to do."""
