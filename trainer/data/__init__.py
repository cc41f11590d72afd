"""Turn images in class folders into checked image sets, and those into batches of tensors.

Modules: folders, image_set, invalid_images, quality, screening; decoding, reading, chunks, orientation, webp,
agreement, augmentation, pipeline.
"""

from trainer.data.agreement import find_undecodable
from trainer.data.augmentation import AUGMENTATION
from trainer.data.decoding import (
    DECODING,
    decode_and_resize,
    decode_or_flag,
    decode_upright,
)
from trainer.data.folders import Scan, scan_folders, scan_split
from trainer.data.image_set import ImageSet, Splits
from trainer.data.invalid_images import invalid_images_error
from trainer.data.pipeline import ImageExamples, read_every_image
from trainer.data.quality import balanced_class_weights, duplicate_warnings, find_duplicates, quality_warnings
from trainer.data.reading import read_bytes
from trainer.data.screening import ScreenedImages

__all__ = [
    "AUGMENTATION",
    "DECODING",
    "ImageExamples",
    "ImageSet",
    "Scan",
    "ScreenedImages",
    "Splits",
    "balanced_class_weights",
    "decode_and_resize",
    "decode_or_flag",
    "decode_upright",
    "duplicate_warnings",
    "find_duplicates",
    "find_undecodable",
    "invalid_images_error",
    "quality_warnings",
    "read_bytes",
    "read_every_image",
    "scan_folders",
    "scan_split",
]
