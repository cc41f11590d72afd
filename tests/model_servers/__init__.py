"""Model servers whose versions, labels, health, speed and presence a test scripts over time.

    with Servers(2) as servers:
        first, second = servers
        first.serve(Version(1, size_px=12), labels={"stable": 1})
        second.serve(Version(1), Version(3), labels={"stable": 3})
        with asking_threads(servers.name, "images") as ask, Traffic(ask) as traffic:
            traffic.wait_for(500)
            second.hang()  # and resume, kill, start, slow_down, fail_next; servers.list_only(first)
            traffic.wait_for(500)
        assert not traffic.wrong and not traffic.failed

The fakes (`Servers`) are processes that answer as TensorFlow Serving does, message for message, and start in
half a second. `swaps.py` does the same with `local_server` and TensorFlow Serving on real SavedModels. Both
classify flat colours, so the right label of every picture is known.
"""

from tests.model_servers.name_server import NameServer
from tests.model_servers.pictures import CLASSES, UNSEEN, picture
from tests.model_servers.servers import FakeServer, Servers, fake_server, spreading_calls
from tests.model_servers.traffic import ASKING, Traffic, asking_asyncio, asking_gateway, asking_threads
from tests.model_servers.versions import MODEL, ForeignVersion, Version

__all__ = [
    "ASKING",
    "CLASSES",
    "MODEL",
    "UNSEEN",
    "FakeServer",
    "ForeignVersion",
    "NameServer",
    "Servers",
    "Traffic",
    "Version",
    "asking_asyncio",
    "asking_gateway",
    "asking_threads",
    "fake_server",
    "picture",
    "spreading_calls",
]
