"""The hyperparameter search of `tune`."""
