"""Build the network: a pre-trained backbone from keras.applications, and the head that is trained on it.

Modules: backbones (the table), networks (a backbone with its weights), classifier, folding.
"""

from trainer.model.backbones import Backbone, find_backbone, preprocess_input
from trainer.model.classifier import (
    Architecture,
    Classifier,
    Loss,
    build_backbone,
    build_classifier,
    build_head,
    copy_for_serving,
    join_head,
    logits_per_class,
    loss_function,
    top_class,
)
from trainer.model.folding import fold_batch_norm
from trainer.model.networks import build_imagenet_classifier, check_weights_file

__all__ = [
    "Architecture",
    "Backbone",
    "Classifier",
    "Loss",
    "build_backbone",
    "build_classifier",
    "build_head",
    "build_imagenet_classifier",
    "check_weights_file",
    "copy_for_serving",
    "find_backbone",
    "fold_batch_norm",
    "join_head",
    "logits_per_class",
    "loss_function",
    "preprocess_input",
    "top_class",
]
