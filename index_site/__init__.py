"""The site: the manifest, and the pages made from it for pip, uv and people."""
