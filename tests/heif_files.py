"""HEIC and AVIF as tests write them; the extra `heif` is needed."""

from __future__ import annotations

from typing import Any

import pillow_heif

pillow_heif.register_heif_opener()

HEIF_FORMATS: dict[str, dict[str, Any]] = {
    "HEIC": {"format_name": "HEIF", "quality": 90},
    "AVIF": {"format_name": "AVIF", "quality": 90, "speed": 10},
}
"""By the format's name, the arguments of `encode` and `stored_turned`."""
