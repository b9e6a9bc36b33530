"""What is said when there is nothing to look at."""


class AnalysisError(ValueError):
    """A network or an image cannot be looked into; the message says why and what to do."""
