"""One file per model family: from a checkpoint's config to our `Architecture`."""

from edgedec.models._decoding import decoding
from edgedec.models._load import describe, families, speech
from edgedec.models._source import Source

__all__ = ["Source", "decoding", "describe", "families", "speech"]
