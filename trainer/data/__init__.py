"""Pictures in folders become checked image sets, and batches of tensors."""

from trainer.data.augmentation import DESCRIPTION
from trainer.data.images import ImageSet, Scan, Splits, scan_folders, scan_split
from trainer.data.invalid_images import invalid_images_error, join_names
from trainer.data.pipeline import (
    ImageExamples,
    decode_and_resize,
    decode_or_flag,
    find_undecodable,
    read_every_image,
)
from trainer.data.quality import balanced_class_weights, duplicate_warnings, find_duplicates, quality_warnings
from trainer.data.screening import ScreenedImages

__all__ = [
    "DESCRIPTION",
    "ImageExamples",
    "ImageSet",
    "Scan",
    "ScreenedImages",
    "Splits",
    "balanced_class_weights",
    "decode_and_resize",
    "decode_or_flag",
    "duplicate_warnings",
    "find_duplicates",
    "find_undecodable",
    "invalid_images_error",
    "join_names",
    "quality_warnings",
    "read_every_image",
    "scan_folders",
    "scan_split",
]
