"""Sources: what a song is conditioned on; one folder a kind."""
