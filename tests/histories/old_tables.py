"""Make the tables of an old JupyterHub: run with that release on PYTHONPATH, and a sync URL."""

import datetime
import sys
import types

import sqlalchemy as sa

# a class that SQLAlchemy 1.4 took away; 0.9 derives a pool listener from it
sys.modules["sqlalchemy.interfaces"] = types.SimpleNamespace(PoolListener=object)  # type: ignore[assignment]

from jupyterhub import orm  # noqa: E402

engine = sa.create_engine(sys.argv[1])
orm.Base.metadata.create_all(engine)
users = orm.Base.metadata.tables["users"]
then = datetime.datetime(2018, 5, 1)
row = {"name": "rosa", "admin": False, "cookie_id": "c", "created": then, "last_activity": then}
with engine.begin() as connection:
    connection.execute(users.insert(), {key: row[key] for key in row if key in users.c})
