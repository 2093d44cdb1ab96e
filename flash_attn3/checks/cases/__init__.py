"""Cases of attention, as plain data."""
