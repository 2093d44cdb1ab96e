"""The torch operators: one record each."""
