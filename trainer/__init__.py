"""The training job: a folder of labelled images in, a version for TensorFlow Serving out."""
