"""What models are made of: attention, the transformer, decoding with a cache, LoRA."""
