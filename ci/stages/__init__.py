"""The stages of the farm, each from files to files."""
