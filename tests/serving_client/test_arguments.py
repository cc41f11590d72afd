"""Wrong arguments are refused in words, by the client and by the command."""

import io
import math
import re
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from PIL import Image

from serving_client import AsyncClient, Client, InvalidRequest, arguments, cli

TEXT_VALUES = ("", None, b"m", 1, True, ["m"], "\udcff")
TIMES = (math.inf, -math.inf, math.nan, 0, -1, "3", True, 1e300, 10**400, [1], np.zeros(2))
COUNTS = (0, -1, "2", 1.5, True, None, 2.0, math.nan, [1])
OPTIONS: dict[str, tuple[object, ...]] = {
    "server": TEXT_VALUES,
    "model": TEXT_VALUES,
    "version": ("1", True, -1, 2**63, 1.0, b"1", [1]),
    "label": ("", 1, b"stable", True, "\udcff"),
    "timeout_s": (None, *TIMES),
    "wait_for_ready": ("yes", 1, None),
    "tls": ("ca.pem", True, {}),
    "compression": ("gzip", 2, True),
    "interceptors": (None, 1, [object()], lambda call: call),
    "metadata": (
        *(None, "authorization", b"x", {"a": "b"}, 1, ["ab"], [("a",)], [("a", "b", "c")]),
        *([("Authorization", "x")], [("", "x")], [("a b", "x")], [(b"a", "x")], [("grpc-timeout", "1S")]),
        *([("a", b"x")], [("a", 1)], [("a", "two\nlines")], [("a", "é")], [("a-bin", "text")], [("a", None)]),
    ),
}
CALLS: dict[str, tuple[object, ...]] = {
    "top_k": COUNTS,
    "via": ("x", "", None, b"images", 1, np.zeros((2, 2))),
    "images": (
        *("cat.jpg", b"bytes", bytearray(b"bytes"), memoryview(b"bytes"), Path("cat.jpg"), None, 1),
        *(Image.new("RGB", (2, 2)), np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2), np.uint8)),
        io.BytesIO(b"bytes"),
    ),
    "timeout_s": TIMES,
    "metadata": OPTIONS["metadata"],
}


def cases(values: dict[str, tuple[object, ...]]) -> list[Any]:
    return [
        # An id without addresses in memory, which differ from process to process.
        pytest.param(name, value, id=f"{name}={re.sub(' at 0x[0-9a-f]+', '', repr(value)):.40}")
        for name in values
        for value in values[name]
    ]


def is_refused(name: str, call: Callable[[], object]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        call()
    message = str(caught.value)
    assert name in message
    assert "Received" in message
    assert "\n" not in message


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize(("name", "value"), cases(OPTIONS))
def test_clients_refuse_wrong_options(kind: type[Any], name: str, value: object) -> None:
    options = {"server": "localhost:1", "model": "m", name: value}
    is_refused(name, lambda: kind(**options))


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize(("name", "value"), cases(CALLS))
def test_streams_refuse_wrong_arguments_before_they_begin(kind: type[Any], name: str, value: object) -> None:
    client = kind("localhost:1", model="m")
    is_refused(name, lambda: client.stream(**{"images": [], name: value}))


@pytest.mark.parametrize("method", ["predict", "describe", "status"])
@pytest.mark.parametrize(("name", "value"), [("timeout_s", math.inf), ("metadata", {"a": "b"})])
def test_every_method_checks_its_budget_and_metadata(method: str, name: str, value: object) -> None:
    values = [np.zeros((1, 2, 2, 3), np.float32)] if method == "predict" else []
    with Client("localhost:1", model="m") as client:
        is_refused(name, lambda: getattr(client, method)(*values, **{name: value}))


@pytest.mark.parametrize("value", COUNTS)
def test_the_asynchronous_client_refuses_a_wrong_max_in_flight(value: object) -> None:
    is_refused("max_in_flight", lambda: AsyncClient("localhost:1", model="m", max_in_flight=value))  # type: ignore[arg-type]  # that is what is refused


def test_an_interceptor_of_the_other_kind_of_client_is_refused() -> None:
    class Threads(grpc.UnaryUnaryClientInterceptor):  # type: ignore[misc]  # grpc has no types
        def intercept_unary_unary(self, *_: object) -> None: ...

    class Tasks(grpc.aio.UnaryUnaryClientInterceptor):  # type: ignore[misc]  # grpc has no types
        async def intercept_unary_unary(self, *_: object) -> None: ...

    is_refused("grpc.Unary", lambda: Client("localhost:1", model="m", interceptors=[Tasks()]))
    is_refused("grpc.aio.Unary", lambda: AsyncClient("localhost:1", model="m", interceptors=[Threads()]))


def test_a_refused_secret_is_not_in_the_message() -> None:
    with pytest.raises(InvalidRequest) as caught:
        arguments.check_metadata([("authorization", "Bearer s3cret\n")])
    assert "s3cret" not in str(caught.value)


def test_a_number_of_thousands_of_digits_is_refused_in_words() -> None:
    for name in ("timeout_s", "version"):
        options: dict[str, Any] = {"model": "m", name: 10**5000}
        with pytest.raises(InvalidRequest, match=name):
            Client("localhost:1", **options)


@pytest.mark.parametrize("value", [1, 0.5, np.float32(0.5), np.int64(3), Fraction(1, 2), 1e6])
def test_takes_every_kind_of_positive_number_as_a_budget(value: Any) -> None:
    assert arguments.check_timeout(value) == float(value)


@pytest.mark.parametrize(
    "flags",
    [
        *(["--timeout-s", value] for value in ("inf", "nan", "0", "-1", "1e300", "soon", "", "1_0 s")),
        *(["--version", value] for value in ("x", "-1", "1.5", "", "9223372036854775808")),
        *(["--label", ""], ["--model", ""], ["--server", ""], ["--label", "\udcff"], ["--model", "\udcff"]),
        *(["--top", value] for value in ("0", "-1", "1.5", "x", "", "9" * 5000)),
        *(["--via", "x"], ["--label", "a", "--version", "1"], ["--nosuch"]),
        *(["--root-certificates", "/nowhere.pem"], ["--private-key", "/nowhere.pem"]),
    ],
    ids=lambda flags: " ".join(flags)[:30].encode("unicode_escape").decode(),
)
def test_the_command_refuses_wrong_flags_in_one_line(
    flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["classify", "x.jpg", "--model", "m", "--server", "localhost:1", *flags]
    try:
        code: object = cli.main(argv)
    except SystemExit as exited:
        code = exited.code
    printed = capsys.readouterr()
    assert (code, printed.out) == (2, "")
    assert printed.err.startswith("python -m serving_client")
    assert printed.err.count("\n") == 1
    assert len(printed.err) < 500
