import grpc
import pytest
import tensorflow as tf

from local_server import statuses
from local_server.statuses import StatusError


@pytest.mark.parametrize(
    ("code", "http_status"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, 400),
        (grpc.StatusCode.NOT_FOUND, 404),
        (grpc.StatusCode.FAILED_PRECONDITION, 412),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, 429),
        (grpc.StatusCode.INTERNAL, 500),
        (grpc.StatusCode.UNIMPLEMENTED, 501),
        (grpc.StatusCode.UNAVAILABLE, 503),
    ],
)
def test_http_statuses_are_tensorflow_servings(code: grpc.StatusCode, http_status: int) -> None:
    assert StatusError(code, "").http_status == http_status


def test_tensorflows_error_codes_are_grpcs() -> None:
    error = tf.errors.ResourceExhaustedError(None, None, "")
    assert statuses.code_from_tensorflow(error.error_code) == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert statuses.code_from_tensorflow(99) == grpc.StatusCode.UNKNOWN


def test_a_status_error_is_not_an_unexpected_error(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(StatusError) as caught, statuses.unexpected_errors_as_internal():
        raise statuses.not_found("no such model")
    assert caught.value.code == grpc.StatusCode.NOT_FOUND
    assert not caplog.records


def test_an_unexpected_error_is_internal_and_its_message_stays_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(StatusError) as caught, statuses.unexpected_errors_as_internal():
        raise ZeroDivisionError("/a/path/of/this/machine")
    assert caught.value.code == grpc.StatusCode.INTERNAL
    assert "ZeroDivisionError" in caught.value.message
    assert "/a/path" not in caught.value.message
    assert "/a/path" in caplog.text
