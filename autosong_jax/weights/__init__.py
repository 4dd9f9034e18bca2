"""Tensors in released files, and how they become parameters."""
