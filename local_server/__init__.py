"""TensorFlow Serving's gRPC API over SavedModels, in one Python process.

For a laptop, tests and CI. Production runs TensorFlow Serving itself, which takes the same flags and
answers with the same status codes and messages.
"""
