"""Several servers behind one DNS name, like the pods behind a headless Service."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from serving_client import Client
from tests.model_servers import NameServer
from tests.serving_client import fake_model_server

ROW = np.zeros((1, 96, 96, 3), np.float32)


def shares(servers: list[str]) -> dict[str, float]:
    counts = Counter(servers)
    return {address: count / len(servers) for address, count in counts.items()}


def test_5000_calls_while_one_of_three_servers_is_killed_and_one_is_added() -> None:
    addresses = [f"127.0.0.{number}" for number in (2, 3, 4, 5)]
    port = fake_model_server.free_port()
    names = NameServer(addresses[:3])
    name = f"dns://127.0.0.1:{names.port}/serving.example:{port}"
    answered: list[str] = []
    with contextlib.ExitStack() as stack:
        processes = [
            stack.enter_context(fake_model_server.running(f"{address}:{port}")) for address in addresses[:3]
        ]
        client = stack.enter_context(Client(name, model="m"))
        client.describe()

        def call(number: int) -> None:
            answered.append(str(client.predict(ROW)["server"][0].decode()))

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(call, range(1000)))
            before = answered[-600:]
            calls = [pool.submit(call, number) for number in range(4000)]
            while len(answered) < 2000:
                time.sleep(0.001)
            processes[0].kill()  # in the middle of calls; DNS still lists its address
            while len(answered) < 3000:
                time.sleep(0.001)
            stack.enter_context(fake_model_server.running(f"{addresses[3]}:{port}"))
            names.addresses = addresses[1:]
            for future in calls:
                future.result()  # no call has failed
            deadline = time.monotonic() + 20
            while f"{addresses[3]}:{port}" not in answered[-50:]:
                assert time.monotonic() < deadline, "the added server gets no calls"
                call(0)
            after_start = len(answered)
            list(pool.map(call, range(1000)))
    assert len(answered) >= 5000
    for window in (before, answered[after_start:]):
        share = shares(window)
        assert len(share) == 3
        assert max(share.values()) - min(share.values()) < 0.15 * max(share.values()), share
