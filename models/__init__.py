"""One file is one model family: its config as an Architecture, its tensors by our names."""
