"""Forms for exported graphs, which use standard operators only."""
