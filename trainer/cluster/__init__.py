"""Training Jobs, pictures and version labels on a Kubernetes cluster. Imports no TensorFlow."""
