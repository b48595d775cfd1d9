"""Checkpoint in, bundle out. One file is one way of storing the weights."""
