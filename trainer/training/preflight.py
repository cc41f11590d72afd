"""Everything that can be found out before hours are spent: devices, volumes, images, weights, space."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

import tensorflow as tf

from trainer.config import TrainConfig
from trainer.data import Scan, Splits, invalid_images_error, scan_folders
from trainer.errors import ConfigError, DeviceError, TrainerError, WeightsError
from trainer.export import ModelDirectory, protected_versions
from trainer.model import check_weights_file, find_backbone
from trainer.runtime import volumes

INVALID_IMAGES = "bad images"
"""Subject of the finding on files that are no usable images."""

SHARED_MEMORY_BYTES = 2**30
"""What NCCL may need between the GPUs of one machine; a container has 64 MiB unless told otherwise."""

MODEL_BYTES = 10**9
"""A version, the best weights and a checkpoint with Adam's two moments are six times the weights, and the
largest backbone's are 111 MB; the rest is for the head and for what else grows on the volume meanwhile."""

_POOLED_BYTES = 2048 * 4
"""Of one image's pooled features: float32, of the widest backbones."""


@dataclasses.dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
      subject: what was looked at, in a word or two.
      detail: one line.
      error: why a run would fail; None: it would not, as far as this goes.
    """

    subject: str
    detail: str
    error: TrainerError | None = None

    def __str__(self) -> str:
        return f"{'FAIL' if self.error else 'ok':<6}{self.subject}: {self.detail}"


@dataclasses.dataclass(frozen=True)
class Checks:
    """All findings, in the order of the checks, and the images, which are read only once.

    Attributes:
      scan: None if the folders cannot be used.
    """

    findings: tuple[Finding, ...]
    scan: Scan | None


def run_checks(config: TrainConfig, needed_bytes: int | None = None) -> Checks:
    """Look at everything that a run needs; an earlier finding stops no later check.

    TensorFlow's devices are listed, not initialised: logical ones may be configured afterwards.

    Args:
      needed_bytes: of the feature cache; None: what pooled features take, and with `fine_tune_from`
        nothing is known before the network is built.
    """
    gpus = len(tf.config.list_physical_devices("GPU"))
    used_gpus = gpus if config.cpu_replicas is None and config.distribution != "one" else min(gpus, 1)
    findings = [
        _finding("GPUs", lambda: _check_gpus(config, gpus)),
        _finding("shared memory", lambda: _check_shared_memory(_size_of(Path("/dev/shm")), used_gpus)),
    ]
    of_images, scan = _examine_images(config)
    findings += [
        *of_images,
        _finding("model directory", lambda: _check_model_directory(config)),
        _finding("model volume", lambda: volumes.check_space(config.model_dir, MODEL_BYTES, "a version")),
    ]
    if config.model_config:
        findings.append(_finding("model config", lambda: _check_model_config(config)))
    findings += [
        _finding("weights", lambda: _check_weights(config)),
        _finding("feature cache", lambda: _check_cache(config, scan, needed_bytes)),
    ]
    return Checks(tuple(findings), scan)


def require_ready(config: TrainConfig) -> Scan:
    """Return the images, if nothing stands in the way of a run.

    Bad images do not, here: the run lists them in its directory before it refuses them.

    Raises:
      TrainerError: the first of the errors.
    """
    examination = run_checks(config)
    if error := first_error(examination.findings, leaving_out={INVALID_IMAGES}):
        raise error
    assert examination.scan is not None  # else there is an error
    return examination.scan


def first_error(findings: Iterable[Finding], leaving_out: Collection[str] = ()) -> TrainerError | None:
    """Return the first error, whose exit code is the process's.

    Args:
      leaving_out: subjects that do not count.
    """
    return next((one.error for one in findings if one.error and one.subject not in leaving_out), None)


def _finding(subject: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding(subject, check())
    except TrainerError as error:
        return Finding(subject, str(error), error)


def _check_gpus(config: TrainConfig, visible: int) -> str:
    if config.gpus is None:
        if config.cpu_replicas:
            return f"not used: --cpu-replicas {config.cpu_replicas}"
        return f"{visible} visible" if visible else "none visible: training on the CPU"
    if config.cpu_replicas is not None:
        raise ConfigError(
            "--gpus and --cpu-replicas exclude each other. Received: "
            f"--gpus {config.gpus} --cpu-replicas {config.cpu_replicas}. Leave one out."
        )
    if visible < config.gpus:
        raise DeviceError(
            f"--gpus {config.gpus}: so many GPUs must be visible to TensorFlow. Received: {visible}. Check "
            "the Pod's limit nvidia.com/gpu, the node's driver, and that the image has tensorflow[and-cuda]."
        )
    return f"{visible} visible, {config.gpus} asked for"


def _size_of(mount: Path) -> int | None:
    """Return the size in bytes of the file system there, None if there is none."""
    return shutil.disk_usage(mount).total if mount.is_dir() else None


def _check_shared_memory(size: int | None, gpus: int) -> str:
    if size is None:
        return "there is no /dev/shm"
    found = f"{size / 2**20:.0f} MiB in /dev/shm"
    if size >= SHARED_MEMORY_BYTES:
        return found
    if gpus >= 2:
        raise DeviceError(
            f"{gpus} GPUs need at least {SHARED_MEMORY_BYTES / 2**20:.0f} MiB of shared memory, through "
            f"which they exchange gradients. Received: {found}. Mount an emptyDir with medium: Memory at "
            "/dev/shm (k8s/training.yaml)."
        )
    return f"{found}, too little for several GPUs"


def _examine_images(config: TrainConfig) -> tuple[list[Finding], Scan | None]:
    try:
        scan = scan_folders(config.data, validation_split=config.validation_split, seed=config.seed)
    except TrainerError as error:
        return [Finding("images", str(error), error)], None
    return [_finding("images", lambda: _check_classes(config, scan.splits)), _bad_images(config, scan)], scan


def _check_classes(config: TrainConfig, splits: Splits) -> str:
    classes = splits["train"].classes
    if config.class_mode == "binary" and len(classes) != 2:
        raise ConfigError(
            f"--class-mode binary needs exactly two classes. Received: {len(classes)} "
            f"({', '.join(classes)}). Use --class-mode categorical."
        )
    counts = ", ".join(f"{len(image_set)} {split}" for split, image_set in splits.items())
    return f"{counts}; the same {len(classes)} classes in each"


def _bad_images(config: TrainConfig, scan: Scan) -> Finding:
    if not scan.bad:
        return Finding(INVALID_IMAGES, "none, as far as can be told without decoding them")
    error = invalid_images_error(scan.bad, len(scan.bad) + sum(map(len, scan.splits.values())))
    if config.on_invalid_image == "fail":
        return Finding(INVALID_IMAGES, str(error), error)
    return Finding(INVALID_IMAGES, f"{len(scan.bad)} will be skipped, such as {scan.bad[0]}")


def _check_model_directory(config: TrainConfig) -> str:
    directory = ModelDirectory(config.model_dir, config.name)
    directory.prepare()
    volumes.check_replaces_and_locks(directory.path)
    return f"{directory.path} can be written, renames replace, locks hold"


def _check_model_config(config: TrainConfig) -> str:
    assert config.model_config is not None
    protected = protected_versions(config.model_config, config.name)
    named = ", ".join(map(str, sorted(protected))) or "none"
    return f"versions of {config.name} that are never removed: {named}"


def _check_weights(config: TrainConfig) -> str:
    backbone = find_backbone(config.backbone)
    if config.weights == "none":
        return "random, for trying things out"
    if config.weights == "imagenet":
        size_px = config.image_size or backbone.native_size_px
        path = _keras_cache() / _imagenet_file(backbone.name, size_px)
        if path.is_file():
            return f"imagenet, in Keras' cache: {path}"
        return f"imagenet, not in Keras' cache yet: Keras downloads {path.name} at the start"
    path = Path(config.weights)
    check_weights_file(path)
    try:
        with path.open("rb") as file:
            start = file.read(8)
    except OSError as error:
        raise WeightsError(
            f"--weights {path} cannot be read: {error.strerror}. Check its permissions."
        ) from error
    if start != b"\x89HDF\r\n\x1a\n":
        raise WeightsError(
            f"--weights {path} must be an HDF5 file. Received: a file that starts with {start!r}. Was it "
            "downloaded whole?"
        )
    return f"{path}, {path.stat().st_size / 1e6:.0f} MB"


def _keras_cache() -> Path:
    """Return the folder into which Keras downloads weights (keras.utils.get_file)."""
    home = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")
    return (home if os.access(home, os.W_OK) else Path("/tmp/.keras")) / "models"


_IMAGENET_FILES = {
    "efficientnetv2b0": "efficientnetv2-b0_notop.h5",
    "mobilenetv3small": "weights_mobilenet_v3_small_224_1.0_float_no_top_v2.h5",
    "inceptionv3": "inception_v3_weights_tf_dim_ordering_tf_kernels_notop.h5",
    "convnexttiny": "convnext_tiny_notop.h5",
}


def _imagenet_file(backbone: str, size_px: int) -> str:
    """Return the name under which Keras keeps the weights without the top."""
    if backbone == "mobilenetv2":
        size_px = size_px if size_px in (96, 128, 160, 192, 224) else 224
        return f"mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_{size_px}_no_top.h5"
    return _IMAGENET_FILES.get(backbone, f"{backbone}_weights_tf_dim_ordering_tf_kernels_notop.h5")


def _check_cache(config: TrainConfig, scan: Scan | None, needed_bytes: int | None) -> str:
    if not config.feature_cache:
        return "not used: --no-feature-cache"
    directory = config.cache_dir or config.model_dir / ".feature_cache"
    volumes.check_writable(directory)
    if needed_bytes is None:
        needed_bytes = _pooled_bytes(config, scan.splits) if scan and not config.fine_tune_from else 0
    free = volumes.check_space(directory, needed_bytes, "the feature cache")
    return f"{free}, {needed_bytes / 1e6:.0f} MB needed" if needed_bytes else free


def _pooled_bytes(config: TrainConfig, splits: Splits) -> int:
    views = sum(map(len, splits.values())) + config.augment_views * len(splits["train"])
    return views * _POOLED_BYTES
