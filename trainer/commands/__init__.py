"""The commands of `python -m trainer`: their flags, and the function that each of them calls."""
