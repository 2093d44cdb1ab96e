"""Where a site lives, and its server."""
