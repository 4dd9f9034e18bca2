"""Objectives: what a model is asked to predict from a batch, and the loss of its answer."""
