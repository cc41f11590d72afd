"""The checks of `doctor`, which `train` runs first: devices, volumes, images, weights and space."""

from __future__ import annotations

import dataclasses
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
from trainer.training.inputs import cache_directory

INVALID_IMAGES = "invalid images"
"""Subject of the finding on files that are not valid images."""

SHARED_MEMORY_BYTES = 2**30
"""What NCCL may need between the GPUs of one machine; a container has 64 MiB unless configured otherwise."""

MODEL_BYTES = 10**9
"""A version, the best weights and a checkpoint with Adam's two moments are six times the weights, and the
largest backbone's are 111 MB; the rest is for the head and for what else grows on the volume meanwhile."""

_POOLED_BYTES = 2048 * 4
"""Size of one image's pooled features: float32, of the widest backbones."""


@dataclasses.dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
      subject: what was checked, in a word or two.
      detail: one line.
      error: why a run would fail; None: this check passed.
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
    """Check everything that a run needs; a failed check does not stop the later ones.

    TensorFlow's devices are listed, not initialized, so that logical ones can still be configured.

    Args:
      needed_bytes: size of the feature cache; None: estimated from pooled features. With `fine_tune_from`
        it is unknown before the network is built.
    """
    gpus = len(tf.config.list_physical_devices("GPU"))
    used_gpus = gpus if config.cpu_replicas is None and config.distribution != "one" else min(gpus, 1)
    findings = [
        _finding("GPUs", lambda: check_gpus(config.gpus, config.cpu_replicas, gpus)),
        _finding("shared memory", lambda: check_shared_memory(_size_of(Path("/dev/shm")), used_gpus)),
    ]
    image_findings, scan = _check_images(config)
    findings += [
        *image_findings,
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


def check_and_scan(config: TrainConfig) -> Scan:
    """Run the checks of a run, and return the images that they scanned.

    Invalid images do not fail this: the run lists them in its directory before it refuses them.

    Raises:
      TrainerError: the first failed check's.
    """
    checks = run_checks(config)
    if error := first_error(checks.findings, leaving_out={INVALID_IMAGES}):
        raise error
    assert checks.scan is not None  # else there is an error
    return checks.scan


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


def check_gpus(required: int | None, cpu_replicas: int | None, visible: int) -> str:
    """Return what is known of the GPUs.

    Raises:
      ConfigError: --gpus and --cpu-replicas are both given.
      DeviceError: fewer GPUs are visible than required.
    """
    if required is None:
        if cpu_replicas:
            return f"not used: --cpu-replicas {cpu_replicas}"
        return f"{visible} visible" if visible else "none visible: training on the CPU"
    if cpu_replicas is not None:
        raise ConfigError(
            "--gpus and --cpu-replicas exclude each other. Received: "
            f"--gpus {required} --cpu-replicas {cpu_replicas}. Leave one out."
        )
    if visible < required:
        raise DeviceError(
            f"--gpus {required}: TensorFlow must see at least {required} GPU(s). Received: {visible}. Check "
            "the Pod's nvidia.com/gpu limit, the node's driver, and that the image was built with "
            "tensorflow[and-cuda]."
        )
    return f"{visible} visible, {required} required"


def _size_of(mount: Path) -> int | None:
    return shutil.disk_usage(mount).total if mount.is_dir() else None


def check_shared_memory(size_bytes: int | None, gpus: int) -> str:
    """Return what is known of /dev/shm.

    Args:
      size_bytes: of /dev/shm; None: it does not exist.
      gpus: that the run uses on this machine.
    Raises:
      DeviceError: it is too small for several GPUs.
    """
    if size_bytes is None:
        return "there is no /dev/shm"
    found = f"{size_bytes / 2**20:.0f} MiB in /dev/shm"
    if size_bytes >= SHARED_MEMORY_BYTES:
        return found
    if gpus >= 2:
        raise DeviceError(
            f"{gpus} GPUs exchange gradients through shared memory and need at least "
            f"{SHARED_MEMORY_BYTES / 2**20:.0f} MiB of it. Received: {found}. Mount an emptyDir with medium: "
            "Memory at /dev/shm (k8s/training.yaml)."
        )
    return f"{found}, too little for several GPUs"


def _check_images(config: TrainConfig) -> tuple[list[Finding], Scan | None]:
    try:
        scan = scan_folders(config.data, validation_split=config.validation_split, seed=config.seed)
    except TrainerError as error:
        return [Finding("images", str(error), error)], None
    return [
        _finding("images", lambda: _check_classes(config, scan.splits)),
        _check_validity(config, scan),
    ], scan


def _check_classes(config: TrainConfig, splits: Splits) -> str:
    classes = splits["train"].classes
    if config.class_mode == "binary" and len(classes) != 2:
        raise ConfigError(
            f"--class-mode binary needs exactly two classes. Received: {len(classes)} "
            f"({', '.join(classes)}). Use --class-mode categorical."
        )
    counts = ", ".join(f"{len(image_set)} {split}" for split, image_set in splits.items())
    return f"{counts}; the same {len(classes)} classes in each"


def _check_validity(config: TrainConfig, scan: Scan) -> Finding:
    if not scan.invalid:
        return Finding(INVALID_IMAGES, "none found without decoding them")
    error = invalid_images_error(scan.invalid, len(scan.invalid) + sum(map(len, scan.splits.values())))
    if config.on_invalid_image == "fail":
        return Finding(INVALID_IMAGES, str(error), error)
    return Finding(INVALID_IMAGES, f"{len(scan.invalid)} will be skipped, such as {scan.invalid[0]}")


def _check_model_directory(config: TrainConfig) -> str:
    directory = ModelDirectory(config.model_dir, config.name)
    directory.prepare()
    volumes.check_replaces_and_locks(directory.path)
    return f"{directory.path} is writable, renames replace files, locks hold"


def _check_model_config(config: TrainConfig) -> str:
    assert config.model_config is not None
    protected = protected_versions(config.model_config, config.name)
    named = ", ".join(map(str, sorted(protected))) or "none"
    return f"versions of {config.name} that are never removed: {named}"


def _check_weights(config: TrainConfig) -> str:
    find_backbone(config.backbone)
    if config.weights == "none":
        return "random, for a quick try"
    if config.weights == "imagenet":
        return "imagenet: Keras downloads them at the start, unless its cache has them"
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
            "downloaded completely?"
        )
    return f"{path}, {path.stat().st_size / 1e6:.0f} MB"


def _check_cache(config: TrainConfig, scan: Scan | None, needed_bytes: int | None) -> str:
    if not config.feature_cache:
        return "not used: --no-feature-cache"
    directory = cache_directory(config)
    volumes.check_writable(directory)
    if needed_bytes is None:
        needed_bytes = _pooled_bytes(config, scan.splits) if scan and not config.fine_tune_from else 0
    free = volumes.check_space(directory, needed_bytes, "the feature cache")
    return f"{free}, {needed_bytes / 1e6:.0f} MB needed" if needed_bytes else free


def _pooled_bytes(config: TrainConfig, splits: Splits) -> int:
    views = sum(map(len, splits.values())) + config.augment_views * len(splits["train"])
    return views * _POOLED_BYTES
