"""The limits that the Python files and the C files (`csrc/tree.h`) share."""

MAX_NODES = 512
"""Of one merged tree."""
MAX_SOURCES = 8
"""Drafters that one planner takes."""
MAX_ITEMS = 4 * MAX_NODES
"""Nodes and riders, of which the tree that pays is chosen."""
WIDTH = 8
"""Successors that a context keeps."""
