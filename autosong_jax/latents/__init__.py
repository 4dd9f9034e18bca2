"""Continuous frames: heads that predict the next latent from a decoder's state, and what a decoder reads of latents."""
