"""The bundles that ship inside edgedec, each with its recipe and card."""
