"""Makes and reads wheels, their libraries, and the drop-in."""
