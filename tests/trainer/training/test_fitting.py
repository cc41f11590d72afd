import dataclasses
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer.errors import DivergedError, StoppedError
from trainer.model.classifier import logits_per_class, loss_function, top_class
from trainer.runtime.stopping import Stop
from trainer.training.devices import Devices
from trainer.training.distribution import mirrored_devices
from trainer.training.features.cache import FeatureExamples
from trainer.training.fitting import Training
from trainer.training.loop import Epoch, Loop, Phase, best_epoch
from trainer.training.step import StepOptions


def clusters(count: int, seed: int) -> FeatureExamples:
    """Three classes around three centres, a little mixed."""
    rng = np.random.default_rng(seed)
    labels = (np.arange(count) % 3).astype(np.int32)
    centres = np.eye(3, 5, dtype=np.float32)
    return FeatureExamples(centres[labels] + rng.normal(0, 0.4, (count, 5)).astype(np.float32), labels)


def network(devices: Devices, *, dropout: float = 0.0) -> keras.Model:
    keras.utils.set_random_seed(0)
    with devices.strategy.scope():
        layers = [keras.Input((5,)), keras.layers.Dropout(dropout, seed=0), keras.layers.Dense(3)]
        return keras.Sequential(layers)


def phase(model: keras.Model, count: int = 47, **changes: Any) -> Phase:
    arguments: dict[str, Any] = {
        "name": "head",
        "model": model,
        "variables": model.trainable_variables,
        "train": clusters(count, 1),
        "validation": clusters(20, 2),
        "learning_rate": 0.01,
        "epochs": 4,
    }
    return Phase(**{**arguments, **changes})


def options(batch_size: int, **changes: Any) -> StepOptions:
    arguments: dict[str, Any] = {
        "loss": loss_function("categorical", 3),
        "batch_size": batch_size,
        "seed": 0,
        "class_weights": [1.0] * 3,
    }
    return StepOptions(**{**arguments, **changes})


@pytest.fixture
def fit(tmp_path: Path) -> Callable[..., tuple[keras.Model, list[Epoch]]]:
    def run(
        replicas: int,
        batch_size: int,
        count: int = 47,
        on_epoch: Callable[[Epoch, bool], None] = lambda *_: None,
        **changes: Any,
    ) -> tuple[keras.Model, list[Epoch]]:
        names = {field.name for field in dataclasses.fields(StepOptions)}
        of_options = {key: changes.pop(key) for key in list(changes) if key in names}
        devices = mirrored_devices(replicas)
        model = network(devices)
        checkpoint = tmp_path / f"{len(list(tmp_path.iterdir()))}.npz"
        training = Training(devices, checkpoint, Stop(), on_epoch=on_epoch)
        training.run(Loop(phase(model, count, **changes), options(batch_size, **of_options), devices))
        return model, training.history

    return run


Fit = Callable[..., tuple[keras.Model, list[Epoch]]]


def test_two_replicas_give_the_history_of_one(fit: Fit) -> None:
    """47 examples in batches of 10 or 46: the last is partial, or leaves a replica without any."""
    for batch_size in (10, 46):
        _, one = fit(1, batch_size)
        _, two = fit(2, batch_size // 2)
        for left, right in zip(one, two, strict=True):
            assert math.isclose(left.loss, right.loss, rel_tol=1e-5)
            assert math.isclose(left.val_loss, right.val_loss, rel_tol=1e-5)
            assert left.accuracy == right.accuracy


def test_history_equals_that_of_keras_fit_on_full_batches(fit: Fit) -> None:
    model = network(mirrored_devices(1))
    train, validation = clusters(48, 1), clusters(20, 2)
    order = np.random.default_rng((0, 1)).permutation(48)
    plain = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3)])
    plain.set_weights(model.get_weights())
    plain.compile(
        keras.optimizers.Adam(0.01),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    kept = plain.fit(
        train.features[order],
        train.labels[order],
        batch_size=16,
        epochs=1,
        shuffle=False,
        validation_data=(validation.features, validation.labels),
        verbose=0,
    ).history
    _, ours = fit(1, 16, count=48, epochs=1)
    assert math.isclose(ours[0].loss, kept["loss"][0], rel_tol=1e-5)
    assert math.isclose(ours[0].val_loss, kept["val_loss"][0], rel_tol=1e-5)
    assert math.isclose(ours[0].accuracy, kept["accuracy"][0], rel_tol=1e-5)


def test_the_best_epochs_weights_win(fit: Fit) -> None:
    """A learning rate that is far too high makes the last epoch worse than an earlier one."""
    told: list[tuple[Epoch, bool]] = []
    model, history = fit(
        1, 8, learning_rate=3.0, epochs=8, on_epoch=lambda epoch, is_best: told.append((epoch, is_best))
    )
    best = [epoch for epoch, is_best in told if is_best][-1]
    assert best != history[-1]
    assert best.val_accuracy == max(epoch.val_accuracy for epoch in history)
    validation = clusters(20, 2)
    logits = model(validation.features).numpy()
    assert np.mean(logits.argmax(1) == validation.labels) == pytest.approx(best.val_accuracy)
    loss = loss_function("categorical", 3)
    assert float(np.mean(loss(validation.labels, logits))) == pytest.approx(best.val_loss, rel=1e-5)


def test_a_second_phase_that_makes_it_worse_leaves_the_first_ones_weights(tmp_path: Path) -> None:
    devices = mirrored_devices(1)
    model = network(devices)
    training = Training(devices, tmp_path / "c.npz", Stop())
    training.run(Loop(phase(model, epochs=6), options(8), devices))
    good = model.get_weights()
    wrong = clusters(47, 1)
    misled = FeatureExamples(wrong.features, (wrong.labels + 1) % 3)
    fine_tune = phase(model, name="fine-tune", train=misled, learning_rate=0.1)
    training.run(Loop(fine_tune, options(8), devices))
    assert training.history[-1].val_accuracy < training.history[5].val_accuracy
    for left, right in zip(good, model.get_weights(), strict=True):
        np.testing.assert_array_equal(left, right)


def test_class_weights_count_in_the_gradient_and_not_in_the_history(fit: Fit) -> None:
    """All weight on class 0, which is a third of the examples: the network says little else."""
    model, history = fit(1, 8, class_weights=[3.0, 0.0, 0.0], learning_rate=0.3, epochs=20)
    assert np.mean(model(clusters(300, 3).features).numpy().argmax(1) == 0) > 0.6
    assert history[-1].loss > history[0].loss
    same, _ = fit(2, 4, class_weights=[3.0, 0.0, 0.0], learning_rate=0.3, epochs=20)
    np.testing.assert_allclose(model.get_weights()[0], same.get_weights()[0], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("changes", [{"xla": True}, {"loss_scaling": True}], ids=lambda one: next(iter(one)))
def test_compiled_and_scaled_steps_give_the_same_history(fit: Fit, changes: dict[str, bool]) -> None:
    _, plain = fit(2, 5)
    _, changed = fit(2, 5, **changes)
    for left, right in zip(plain, changed, strict=True):
        assert math.isclose(left.loss, right.loss, rel_tol=1e-5)
        assert math.isclose(left.val_loss, right.val_loss, rel_tol=1e-5)


def test_an_epoch_shows_each_image_once_as_itself_or_as_a_copy(tmp_path: Path) -> None:
    """Records which rows the loop asks for."""
    seen: list[np.ndarray] = []

    class Recorder(FeatureExamples):
        def batches(self, order: np.ndarray, batch_size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
            seen.append(order)
            return super().batches(order, batch_size)

    plain = clusters(12, 1)
    views = Recorder(np.tile(np.asarray(plain.features), (3, 1)), plain.labels, views=3)
    devices = mirrored_devices(1)
    model = network(devices)
    loop = Loop(phase(model, train=views, epochs=20), options(4), devices)
    Training(devices, tmp_path / "c.npz", Stop()).run(loop)
    for order in seen:
        assert sorted(order % 12) == list(range(12))
    shown = np.concatenate(seen)
    assert set(np.unique(shown)) == set(range(36))
    assert not np.array_equal(seen[0], seen[1])


def weights_and_history(model: keras.Model, training: Training) -> tuple[list[np.ndarray], list[Epoch]]:
    history = [dataclasses.replace(epoch, seconds=0) for epoch in training.history]
    return model.get_weights(), history


def train_two_phases(checkpoint: Path, most_steps: int | None = None) -> tuple[keras.Model, Training]:
    """Train with dropout for 36 steps, 6 of them in each epoch, or stop after `most_steps`."""
    devices = mirrored_devices(2)
    model = network(devices, dropout=0.3)
    stop, steps = Stop(), 0

    def count(_: int) -> None:
        nonlocal steps
        steps += 1
        stop.requested = most_steps is not None and steps >= most_steps

    training = Training(devices, checkpoint, stop, on_images=count)
    training.run(Loop(phase(model, epochs=3), options(4), devices))
    fine_tune = phase(model, name="fine-tune", epochs=3, learning_rate=0.001)
    training.run(Loop(fine_tune, options(4), devices))
    return model, training


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[np.ndarray], list[Epoch]]:
    return weights_and_history(*train_two_phases(tmp_path_factory.mktemp("undisturbed") / "c.npz"))


@pytest.mark.parametrize(
    "stop_after",
    [
        pytest.param(7, id="inside an epoch"),
        pytest.param(12, id="at its end"),
        pytest.param(30, id="in the second phase"),
    ],
)
def test_a_stopped_training_resumes_at_the_same_step_with_the_same_bits(
    tmp_path: Path, undisturbed: tuple[list[np.ndarray], list[Epoch]], stop_after: int
) -> None:
    with pytest.raises(StoppedError):
        train_two_phases(tmp_path / "c.npz", stop_after)
    weights, history = weights_and_history(*train_two_phases(tmp_path / "c.npz"))
    assert history == undisturbed[1]
    for left, right in zip(undisturbed[0], weights, strict=True):
        np.testing.assert_array_equal(left, right)


def test_equal_accuracy_is_decided_by_the_loss() -> None:
    def epoch(val_accuracy: float, val_loss: float) -> Epoch:
        return Epoch("head", 1, 0.0, 0.0, val_loss, val_accuracy, 0.0)

    better = epoch(0.8, 0.5)
    assert best_epoch([epoch(0.7, 0.1), epoch(0.8, 0.6), better, epoch(0.8, 0.6)]) is better
    first = epoch(0.8, 0.5)
    assert best_epoch([first, epoch(0.8, 0.5)]) is first


def test_a_loss_that_is_no_number_ends_the_run(fit: Fit) -> None:
    broken = clusters(20, 1)
    assert isinstance(broken.features, np.ndarray)
    broken.features[3, 0] = np.nan
    with pytest.raises(DivergedError, match=r"loss nan.* epoch 1 .*0\.001"):
        fit(1, 8, train=broken, epochs=2)


def test_a_last_step_that_explodes_is_noticed(fit: Fit) -> None:
    """One step an epoch: the training loss is computed before the update that spoils the weights."""
    with pytest.raises(DivergedError, match=r"loss [0-9.]+, validation loss (nan|inf) in head epoch 1"):
        fit(1, 64, learning_rate=3e38, epochs=1)


def test_the_three_class_modes_agree() -> None:
    """Sparse and categorical are one loss; binary with logit z is categorical with logits [0, z]."""
    labels = tf.constant([0, 1, 1], tf.int32)
    two = tf.constant([[0.0, 1.5], [0.0, -2.0], [0.0, 0.3]])
    categorical = loss_function("categorical", 2)(labels, two)
    np.testing.assert_allclose(categorical, loss_function("sparse", 2)(labels, two), rtol=1e-6)
    np.testing.assert_allclose(categorical, loss_function("binary", 2)(labels, two[:, 1:]), rtol=1e-5)
    np.testing.assert_array_equal(logits_per_class(two[:, 1:]), two)
    np.testing.assert_array_equal(top_class(two[:, 1:]), top_class(two))
