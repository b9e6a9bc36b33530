"""The error of this package."""


class AnalysisError(ValueError):
    """A network or an image cannot be analysed; the message says why and what to do."""
