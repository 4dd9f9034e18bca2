"""Flax NNX modules: attention, the transformer, condition sources and the song model."""
