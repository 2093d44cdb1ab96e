"""The folder of a site and its server."""
