import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer import classifier, distribution, fitting
from trainer.errors import DivergedError
from trainer.fitting import Epoch
from trainer.prefix_cache import FeatureExamples


def clusters(count: int, seed: int) -> FeatureExamples:
    """Three classes around three centres, a little mixed."""
    rng = np.random.default_rng(seed)
    labels = (np.arange(count) % 3).astype(np.int32)
    centres = np.eye(3, 5, dtype=np.float32)
    return FeatureExamples(centres[labels] + rng.normal(0, 0.4, (count, 5)).astype(np.float32), labels)


def linear(strategy: tf.distribute.Strategy, units: int = 3) -> keras.Model:
    keras.utils.set_random_seed(0)
    with strategy.scope():
        return keras.Sequential([keras.Input((5,)), keras.layers.Dense(units)])


def fit(
    replicas: int, batch_size: int, count: int = 47, **options: object
) -> tuple[keras.Model, tuple[Epoch, ...]]:
    strategy = distribution.mirrored_strategy(replicas)
    model = linear(strategy)
    arguments: dict[str, object] = {
        "strategy": strategy,
        "loss": classifier.loss_function("categorical", 3),
        "learning_rate": 0.01,
        "epochs": 4,
        "batch_size": batch_size,
        "seed": 0,
    }
    history = fitting.fit(model, clusters(count, 1), clusters(20, 2), **{**arguments, **options})
    return model, history


def test_two_replicas_give_the_history_of_one() -> None:
    """47 examples in batches of 10 or 46: the last is partial, or leaves a replica without any."""
    for batch_size in (10, 46):
        _, one = fit(1, batch_size)
        _, two = fit(2, batch_size // 2)
        for left, right in zip(one, two, strict=True):
            assert math.isclose(left.loss, right.loss, rel_tol=1e-5)
            assert math.isclose(left.val_loss, right.val_loss, rel_tol=1e-5)
            assert left.accuracy == right.accuracy


def test_history_equals_that_of_keras_fit_on_full_batches() -> None:
    model = linear(tf.distribute.get_strategy())
    train, validation = clusters(48, 1), clusters(20, 2)
    order = np.random.default_rng((0, 1)).permutation(48)
    model.compile(
        keras.optimizers.Adam(0.01),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    kept = model.fit(
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


def test_the_best_epochs_weights_win() -> None:
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
    loss = classifier.loss_function("categorical", 3)
    assert float(np.mean(loss(validation.labels, logits))) == pytest.approx(best.val_loss, rel=1e-5)


def test_equal_accuracy_is_decided_by_the_loss() -> None:
    def epoch(val_accuracy: float, val_loss: float) -> Epoch:
        return Epoch(1, 0.0, 0.0, val_loss, val_accuracy, 0.0)

    assert epoch(0.8, 0.5).is_better_than(epoch(0.8, 0.6))
    assert not epoch(0.8, 0.6).is_better_than(epoch(0.8, 0.6))
    assert not epoch(0.7, 0.1).is_better_than(epoch(0.8, 0.6))
    assert epoch(0.0, 9.0).is_better_than(None)


def test_a_loss_that_is_no_number_ends_the_run() -> None:
    broken = clusters(20, 1)
    broken.features[3, 0] = np.nan
    strategy = distribution.mirrored_strategy(1)
    with pytest.raises(DivergedError, match=r"must stay finite. Received: loss nan.* epoch 1 .*Try 0.001"):
        fitting.fit(
            linear(strategy),
            broken,
            clusters(20, 2),
            strategy=strategy,
            loss=classifier.loss_function("categorical", 3),
            learning_rate=0.01,
            epochs=2,
            batch_size=8,
            seed=0,
        )


def test_a_last_step_that_explodes_is_noticed() -> None:
    """One step an epoch: the training loss is computed before the update that spoils the weights."""
    with pytest.raises(DivergedError, match=r"Received: loss [0-9.]+, validation loss (nan|inf) in epoch 1"):
        fit(1, 64, learning_rate=3e38, epochs=1)


def test_the_three_class_modes_agree() -> None:
    """Sparse and categorical are one loss; binary with logit z is categorical with logits [0, z]."""
    labels = tf.constant([0, 1, 1], tf.int32)
    two = tf.constant([[0.0, 1.5], [0.0, -2.0], [0.0, 0.3]])
    categorical = classifier.loss_function("categorical", 2)(labels, two)
    np.testing.assert_allclose(categorical, classifier.loss_function("sparse", 2)(labels, two), rtol=1e-6)
    np.testing.assert_allclose(
        categorical, classifier.loss_function("binary", 2)(labels, two[:, 1:]), rtol=1e-5
    )
    np.testing.assert_array_equal(classifier.logits_per_class(two[:, 1:]), two)
    np.testing.assert_array_equal(classifier.top_class(two[:, 1:]), classifier.top_class(two))
