"""All measurements of an accelerator by one command, in slices of some minutes: see `__main__`."""
