"""Import TensorFlow without its start-up notes, which say nothing to who reads a run's log."""

from __future__ import annotations

import logging
import os
import sys
import tempfile

# Written by the C++ libraries straight to file descriptor 2, before any log level applies.
_NOTES = ("I0000 ", "WARNING: All log messages before absl::InitializeLog()")


def import_tensorflow() -> None:
    """Import TensorFlow; what it writes to stderr meanwhile is passed on, except the known notes."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile("w+", errors="replace") as captured:
        os.dup2(captured.fileno(), 2)
        try:
            import tensorflow  # noqa: F401  # only for what it does
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            captured.seek(0)
            kept = [line for line in captured if not line.startswith(_NOTES)]
            sys.stderr.writelines(kept)
    for name in ("tensorflow", "absl"):
        logging.getLogger(name).setLevel(logging.ERROR)
