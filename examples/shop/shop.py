"""A shop with a database of its own, for deployments: `uvicorn shop:app` serves it.

`automigrator --app shop:migrator run` migrates it. DATABASE_URL is the application's way to the
database, through a pooler where there is one. Whoever migrates sets MIGRATION_URL besides: a direct
way to the same database, as a role that may change its schema.
"""

import os
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from fastapi import FastAPI, Response
from sqlalchemy.ext.asyncio import create_async_engine

from automigrator import Migrator, Target, Timeouts

metadata = sa.MetaData()
products = sa.Table(
    "products",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", sa.String(50), nullable=False),
)

engine = create_async_engine(os.environ["DATABASE_URL"])
migrator = Migrator(
    Target(
        engine,
        Path(__file__).with_name("alembic.ini"),
        name="shop",
        migrate_with=os.environ.get("MIGRATION_URL"),
    ),
    timeouts=Timeouts(lock=1200, run=1500),
)
app = FastAPI(lifespan=migrator.lifespan)


@app.get("/alive")
async def alive() -> dict[str, bool]:
    """For probes that ask whether the process answers; no database is asked."""
    return {"alive": True}


@app.get("/ready")
async def ready(response: Response) -> dict[str, Any]:
    """For probes that ask whether requests may be sent here."""
    answer = await migrator.readiness()
    response.status_code = 200 if answer else 503
    return answer.to_dict()


@app.get("/products")
async def names() -> list[str]:
    """The names of all products."""
    async with engine.connect() as connection:
        return list((await connection.scalars(sa.select(products.c.name).order_by("id"))).all())
