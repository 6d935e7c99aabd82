"""The application that `gate.py` measures, on one port as it is, on the other behind the gate.

    python gate_side.py BARE_PORT GATED_PORT

One process serves both: two of the same program differ by more than what is measured.
"""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

import uvicorn
from fastapi import FastAPI

from automigrator import Migrator, Target
from automigrator.asgi import Gate

migrator = Migrator(Target(os.environ["URL"], os.environ["CONFIG"]), mode="migrate")


async def hello(scope: Any, receive: Any, send: Any) -> None:
    """An application that costs next to nothing, so that all that the gate adds is seen."""
    if scope["type"] == "lifespan":
        raise NotImplementedError
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"5")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"hello"})


framework = FastAPI()


@framework.get("/")
async def root() -> dict[str, str]:
    """An application as people write them."""
    return {"hello": "world"}


bare = framework if os.environ["KIND"] == "FastAPI" else hello
gated = Gate(bare, migrator)


async def main() -> None:
    """Serve both, until the process is ended."""
    servers = [
        uvicorn.Server(uvicorn.Config(app, port=int(port), log_level="critical", access_log=False))
        for app, port in zip((bare, gated), sys.argv[1:], strict=True)
    ]
    await asyncio.gather(*(each.serve() for each in servers))


if __name__ == "__main__":
    asyncio.run(main())
