from pathlib import Path

import numpy as np
import pytest

from trainer.report.analysis import (
    CalibrationBin,
    Mistake,
    calibration_bins,
    confusion_matrix,
    expected_calibration_error,
    most_confident_mistakes,
    per_class_metrics,
)
from trainer.training import SplitResult


def result_of(
    truth: list[int], probabilities: list[list[float]], classes: tuple[str, ...] = ("cat", "dog", "owl")
) -> SplitResult:
    return SplitResult(
        "test",
        classes,
        tuple(Path(f"{index}.jpg") for index in range(len(truth))),
        np.array(truth, np.int32),
        np.array(probabilities, np.float32).reshape(len(truth), len(classes)),
    )


def surely(predicted: list[int], class_count: int = 3) -> list[list[float]]:
    return list(np.eye(class_count, dtype=np.float32)[predicted].tolist())


@pytest.fixture
def seven() -> SplitResult:
    """4 cats, of which 1 is predicted as a dog; 2 dogs, both predicted as cats; 1 owl, predicted as a dog."""
    return result_of([0, 0, 0, 0, 1, 1, 2], surely([0, 0, 0, 1, 0, 0, 1]))


def test_a_row_of_the_confusion_matrix_is_a_true_class(seven: SplitResult) -> None:
    counts = confusion_matrix(seven)
    assert counts.tolist() == [[3, 1, 0], [2, 0, 0], [0, 1, 0]]
    assert np.issubdtype(counts.dtype, np.integer)
    assert seven.correct == 3


def test_precision_recall_and_f1_equal_a_count_by_hand(seven: SplitResult) -> None:
    cat, dog, owl = per_class_metrics(seven)
    assert (cat.name, cat.support, cat.predicted) == ("cat", 4, 5)
    assert (cat.precision, cat.recall) == (3 / 5, 3 / 4)
    assert cat.f1 == pytest.approx(2 * (3 / 5) * (3 / 4) / (3 / 5 + 3 / 4))
    assert (dog.support, dog.predicted, dog.precision, dog.recall, dog.f1) == (2, 2, 0, 0, 0)
    assert (owl.support, owl.predicted, owl.recall, owl.f1) == (1, 0, 0, 0)


def test_an_undefined_ratio_is_none_and_not_nan(seven: SplitResult) -> None:
    assert per_class_metrics(seven)[2].precision is None
    absent = per_class_metrics(result_of([0, 0], surely([0, 1])))
    assert absent[1].recall is None and absent[1].precision == 0
    assert (absent[2].precision, absent[2].recall, absent[2].f1) == (None, None, None)


def test_a_split_without_images_has_no_ratios() -> None:
    empty = result_of([], [])
    assert confusion_matrix(empty).tolist() == [[0] * 3] * 3
    assert expected_calibration_error(empty) is None
    assert most_confident_mistakes(empty, 3) == []


def test_calibration_equals_a_count_by_hand() -> None:
    pairs = ("cat", "dog")
    result = result_of([0, 1, 0, 0], [[0.75, 0.25], [0.7109375, 0.2890625], [0.625, 0.375], [1, 0]], pairs)
    bins = calibration_bins(result)
    assert bins[6] == CalibrationBin(0.6, 0.7, 1, 0.625, 1.0)
    assert bins[7] == CalibrationBin(0.7, 0.8, 2, (0.75 + 0.7109375) / 2, 0.5)
    assert bins[9] == CalibrationBin(0.9, 1.0, 1, 1.0, 1.0)
    assert [one.count for one in bins] == [0, 0, 0, 0, 0, 0, 1, 2, 0, 1]
    assert bins[0] == CalibrationBin(0.0, 0.1, 0, None, None)
    by_hand = (1 * (1 - 0.625) + 2 * ((0.75 + 0.7109375) / 2 - 0.5) + 0) / 4
    assert expected_calibration_error(result) == pytest.approx(by_hand)


def test_a_bin_holds_its_upper_edge_and_not_its_lower_one() -> None:
    classes = tuple("abcdefghijk")
    top = [0.1, 0.2, 0.3, 0.6, 0.7, 1.0]
    rows = [[share, *[(1 - share) / 10] * 10] for share in top]
    bins = calibration_bins(result_of([0] * 6, rows, classes))
    assert [one.count for one in bins] == [1, 1, 1, 0, 0, 1, 1, 0, 0, 1]


def test_a_probability_a_little_above_one_is_in_the_last_bin() -> None:
    above = float(np.nextafter(np.float32(1), np.float32(2)))
    bins = calibration_bins(result_of([0], [[above, 0, 0]]))
    assert [one.count for one in bins] == [0] * 9 + [1]


def test_the_most_confident_mistakes_come_first() -> None:
    result = result_of(
        [0, 0, 1, 2, 0],
        [[0.25, 0.5, 0.25], [1, 0, 0], [0.875, 0.125, 0], [0.25, 0.5, 0.25], [0.25, 0.0, 0.75]],
    )
    assert most_confident_mistakes(result, 3) == [
        Mistake(Path("2.jpg"), "dog", "cat", 0.875),
        Mistake(Path("4.jpg"), "cat", "owl", 0.75),
        Mistake(Path("0.jpg"), "cat", "dog", 0.5),
    ]
    assert len(most_confident_mistakes(result, 99)) == 4
