"""Samplers: a memory, and perhaps a prompt, in; codes and songs out."""
