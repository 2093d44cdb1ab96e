"""The stages of the farm. Each reads files and writes files, and can be run alone."""
