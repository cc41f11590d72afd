import json

import grpc
import numpy as np
import numpy.typing as npt
import pytest

from serving_client import (
    DeadlineExceeded,
    ImageError,
    InvalidRequest,
    ModelNotFound,
    Prediction,
    ServerError,
    ServerUnavailable,
    ServingError,
    codec,
    errors,
)
from serving_client.model_card import parse_model_card
from serving_client.predictions import top_predictions
from serving_client.transport import statuses
from tests.serving_client.fake_model_server import card

CARD = json.dumps(card(96)).encode()


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, InvalidRequest),
        (grpc.StatusCode.FAILED_PRECONDITION, InvalidRequest),
        (grpc.StatusCode.NOT_FOUND, ModelNotFound),
        (grpc.StatusCode.UNAVAILABLE, ServerUnavailable),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, ServerUnavailable),
        (grpc.StatusCode.DEADLINE_EXCEEDED, DeadlineExceeded),
        (grpc.StatusCode.INTERNAL, ServerError),
    ],
)
def test_each_status_has_its_error(code: grpc.StatusCode, kind: type[ServingError]) -> None:
    assert type(statuses.error_for_status(code, "", "host:1", "m")) is kind


@pytest.mark.parametrize("code", grpc.StatusCode)
def test_every_status_becomes_a_one_line_error_that_names_it(code: grpc.StatusCode) -> None:
    error = statuses.error_for_status(code, "details\nof two lines", "host:1", "m")
    assert isinstance(error, ServingError)
    assert "\n" not in str(error)
    for fact in (code.name, "host:1", "'m'", "details of two lines"):
        assert fact in str(error)


def test_errors_have_one_base() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert len(kinds) == 7
    assert all(issubclass(kind, ServingError) for kind in kinds)


LABELLED = parse_model_card(CARD)


def top(
    probabilities: npt.ArrayLike,
    decoded: list[bool] | None = None,
    *,
    top_k: int = 1,
    nan_is_undecodable: bool = False,
) -> list[Prediction | ImageError]:
    outputs = {"probabilities": np.asarray(probabilities, np.float32)}
    if decoded is not None:
        outputs["decoded"] = np.array(decoded)
    rows = len(outputs["probabilities"])
    return top_predictions(outputs, LABELLED, top_k, rows, nan_is_undecodable=nan_is_undecodable)


def test_an_image_that_the_model_cannot_decode_is_an_error_in_its_row() -> None:
    first, second = top([[0.25, 0.75], [np.nan, np.nan]], [True, False])
    assert isinstance(first, Prediction) and first.label == "b"
    assert isinstance(second, ImageError) and "cannot decode" in str(second)


@pytest.mark.parametrize("decoded", [None, [True, True]])
def test_nan_from_weights_that_have_diverged_does_not_blame_the_image(decoded: list[bool] | None) -> None:
    with pytest.raises(ServerError, match="diverged") as error:
        top([[0.25, 0.75], [np.nan, np.nan]], decoded)
    assert "decode" not in str(error.value)


def test_nan_for_a_file_from_a_version_that_does_not_say_more_may_mean_either() -> None:
    _, second = top([[0.25, 0.75], [np.nan, np.nan]], nan_is_undecodable=True)
    assert isinstance(second, ImageError)
    assert "diverged" in str(second)


def test_equal_probabilities_come_in_the_order_of_the_labels() -> None:
    (tie,) = top(np.full((1, 2), 0.5), top_k=2)
    assert isinstance(tie, Prediction)
    assert [score.label for score in tie.scores] == ["a", "b"]


@pytest.mark.parametrize("shape", [(1, 3), (2,), (1, 2, 1), (2, 2), ()])
def test_refuses_probabilities_that_do_not_fit_images_and_labels(shape: tuple[int, ...]) -> None:
    outputs = {"probabilities": np.zeros(shape, np.float32)}
    with pytest.raises(ServerError, match=r"\(1, 2\)"):
        top_predictions(outputs, LABELLED, 1, 1, nan_is_undecodable=False)


def test_an_answer_whose_rows_name_different_models_is_refused() -> None:
    with pytest.raises(ServerError, match="2 different"):
        codec.model_id({"model_id": np.array([b"a", b"b"], object)})
    assert codec.model_id({"model_id": np.array([b"a", b"a"], object)}) == "a"
    assert codec.model_id({}) == ""


def test_refuses_bytes_that_are_not_the_expected_message() -> None:
    for decode in (codec.decode_predict_response, codec.decode_status_response):
        with pytest.raises(ServerError, match="4 bytes"):
            decode(b"\xff\xff\xff\xff")


def test_refuses_to_send_a_dtype_that_is_not_supported() -> None:
    with pytest.raises(InvalidRequest, match="'x'.*complex64"):
        codec.encode_predict_request("m", "s", {"x": np.zeros(1, np.complex64)})
