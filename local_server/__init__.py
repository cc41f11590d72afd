"""TensorFlow Serving's gRPC and REST APIs over SavedModels, in one Python process.

Use it on laptops, in tests and in CI. Production runs TensorFlow Serving itself, which takes the same
flags and answers with the same status codes and messages.
"""
