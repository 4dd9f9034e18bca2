"""How K codebooks a frame become a sequence of steps."""
