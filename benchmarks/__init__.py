"""Programs that measure this project and print the figures of docs/benchmarks.md.

Run them from the repository root, as modules:

    python -m benchmarks.serving --json serving.json

With `--quick`, each runs the same code on tiny generated images and a tiny random backbone, in seconds.
"""
