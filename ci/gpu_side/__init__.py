"""What runs beside a GPU with only Python and torch: standard library otherwise."""
