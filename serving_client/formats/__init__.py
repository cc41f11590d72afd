"""Image formats: what a valid file is, and how its pixels and its orientation are read."""
