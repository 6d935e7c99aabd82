"""The shop behind its gate, for the browser: `SHOP` names its folder, `GATE` the gate's options."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

from automigrator import Migrator, Target
from automigrator.asgi import Gate

FOLDER = Path(os.environ["SHOP"])
OPTIONS = json.loads(os.environ["GATE"])
PAGE = (
    b'<!doctype html><html lang="en"><title>Shop</title><link rel="icon" href="data:,">'
    b"<main><h1>Welcome to the shop</h1></main>"
)

socket.gethostname = lambda: "web-1"  # for the images of the docs
mode = OPTIONS.pop("mode", "migrate")


url = f"sqlite+aiosqlite:///{FOLDER / 'shop.db'}"
migrator = Migrator(Target(url, FOLDER / "alembic.ini"), mode=mode)


async def shop(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        while (await receive())["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        return await send({"type": "lifespan.shutdown.complete"})
    headers = [(b"content-type", b"text/html; charset=utf-8")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": PAGE})


app = Gate(shop, migrator, **OPTIONS)
