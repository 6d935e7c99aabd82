"""The shop behind the gate: `uvicorn gated:app` listens at once, and migrates meanwhile.

The shop's own lifespan follows, and finds nothing to do.
"""

from shop import app as shop
from shop import migrator

from automigrator.asgi import Gate

app = Gate(shop, migrator)
