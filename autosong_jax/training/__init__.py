"""Training: state, step, checkpoints, metrics, and the loop around them."""
