"""DAC, the Descript audio codec."""
