"""The application that `gate.py` measures: `bare`, or behind the gate as `gated`.

Both have migrated, so that neither process has more modules than the other.
"""

from __future__ import annotations

import os
from typing import Any

from fastapi import FastAPI

from automigrator import Migrator, Target
from automigrator.asgi import Gate

migrator = Migrator(Target(os.environ["URL"], os.environ["CONFIG"]), mode="migrate")


async def hello(scope: Any, receive: Any, send: Any) -> None:
    """An application that costs next to nothing, so that all that the gate adds is seen."""
    if scope["type"] == "lifespan":
        await receive()
        await migrator.run()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        return await send({"type": "lifespan.shutdown.complete"})
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"5")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"hello"})


framework = FastAPI(lifespan=migrator.lifespan)


@framework.get("/")
async def root() -> dict[str, str]:
    """An application as people write them."""
    return {"hello": "world"}


bare = {"plain ASGI": hello, "FastAPI": framework}[os.environ["KIND"]]
gated = Gate(bare, migrator)
