"""Training Jobs, images and version labels on a Kubernetes cluster. Imports no TensorFlow."""
