"""What a process depends on: files on shared storage, SIGTERM, the terminal. Imports no TensorFlow."""
