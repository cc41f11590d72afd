"""Messages of TensorFlow Serving's files that tensorflow-serving-api lacks (`make wire` generates them)."""
