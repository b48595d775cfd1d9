"""One file per model family: from a checkpoint's config to our `Architecture`."""

from edgedec.models._load import describe, families
from edgedec.models._source import Source

__all__ = ["Source", "describe", "families"]
