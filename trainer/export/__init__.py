"""Write, check and publish the versions of a model that TensorFlow Serving loads, and remove old ones.

Modules: signatures, model_card, published_version, export_check, warmup, release, publishing, retention and
pretrained.
"""

from trainer.export.export_check import ExportCheck
from trainer.export.model_card import ModelCard, digest_weights
from trainer.export.pretrained import export_pretrained
from trainer.export.published_version import PublishedVersion
from trainer.export.publishing import ModelDirectory
from trainer.export.release import check_and_write_warmup
from trainer.export.retention import protected_versions, remove_old_versions
from trainer.export.signatures import save_signatures

__all__ = [
    "ExportCheck",
    "ModelCard",
    "ModelDirectory",
    "PublishedVersion",
    "check_and_write_warmup",
    "digest_weights",
    "export_pretrained",
    "protected_versions",
    "remove_old_versions",
    "save_signatures",
]
