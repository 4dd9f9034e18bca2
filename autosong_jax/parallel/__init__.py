"""Where arrays live: one mesh, one table of rules."""
