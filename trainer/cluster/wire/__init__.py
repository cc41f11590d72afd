"""TensorFlow Serving's model config, as messages of our own (`make wire` generates the code)."""

from trainer.cluster.wire.model_server_config_pb2 import ModelConfig, ModelServerConfig

__all__ = ["ModelConfig", "ModelServerConfig"]
