"""What a published version is: its signatures, model card, export check, warm-up and place on disk."""

from trainer.export.export_check import ExportCheck
from trainer.export.model_card import ModelCard
from trainer.export.pretrained import export_pretrained
from trainer.export.published import PublishedVersion
from trainer.export.publishing import ModelDirectory
from trainer.export.release import check_and_warm_up
from trainer.export.retention import protected_versions, remove_old_versions
from trainer.export.signatures import save_signatures

__all__ = [
    "ExportCheck",
    "ModelCard",
    "ModelDirectory",
    "PublishedVersion",
    "check_and_warm_up",
    "export_pretrained",
    "protected_versions",
    "remove_old_versions",
    "save_signatures",
]
