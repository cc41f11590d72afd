"""The output of the frozen layers: computed once for each image, and cached on disk."""
