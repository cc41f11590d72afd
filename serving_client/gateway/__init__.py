"""HTTP and a web page in front of a model on TensorFlow Serving (extra `gateway`)."""
