import pytest

from serving_client import wire
from serving_client.protocol import Call, Protocol, Via
from tests.serving_client.fake_model_server import FakeModel


@pytest.mark.parametrize(
    ("size_px", "via", "expected"),
    [
        (32, "images", 32),
        (150, "images", 32),
        (224, "images", 16),
        (299, "images", 8),
        (4000, "images", 1),
        (299, "encoded", 32),
    ],
)
def test_a_request_holds_as_many_images_as_the_size_of_the_models_input_allows(
    size_px: int, via: Via, expected: int
) -> None:
    steps = Protocol("m", None).batch_size(via)
    call = next(steps)  # it asks for the card
    assert isinstance(call, Call)
    assert call.method == wire.PREDICT
    with pytest.raises(StopIteration) as done:
        steps.send(FakeModel(size_px=size_px).respond(call.request))
    assert done.value.value == expected


def test_a_request_names_the_model_and_the_version_or_label() -> None:
    for version, label in ((7, None), (None, "stable"), (None, None)):
        call = next(Protocol("m", version or label).describe())
        assert isinstance(call, Call)
        spec = wire.PredictRequest.FromString(call.request).model_spec
        assert spec.name == "m"
        assert (spec.version.value or None, spec.version_label or None) == (version, label)
