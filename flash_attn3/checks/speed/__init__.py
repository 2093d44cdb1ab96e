"""Races against other implementations, and the host time of a call."""
