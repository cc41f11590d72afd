"""Files on shared storage, archives, SIGTERM and the progress bar. Imports no TensorFlow."""
