"""Streams of images: collect batches while others are in flight, in threads or in tasks."""
