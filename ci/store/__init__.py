"""Where a site lives and how it is served."""
