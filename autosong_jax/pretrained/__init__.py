"""Released checkpoints: from their files to our models, and back."""
