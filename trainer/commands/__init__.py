"""The commands of `python -m trainer`: their flags, and the one function that each calls."""
