"""What makes a revision unsafe to replay: whatever is not known to give the same SQL."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

import pytest
from support import alembic_projects

from automigrator.fleet.replay.scan import unsafe_in, unsafe_in_env, unsafe_revisions
from automigrator.migrations.config import alembic_config
from automigrator.migrations.history import History
from automigrator.target import Target

FILE = '''"""a revision"""

{imports}

import sqlalchemy as sa
from alembic import op
from datetime import datetime, timezone
from sqlalchemy.dialects import postgresql

revision = "r1"
down_revision = None
branch_labels = None
depends_on = None

things = sa.table("things", sa.column("id", sa.Integer), sa.column("name", sa.String))
NAMES = ["one", "two"]


def _table(name: str, *columns: sa.Column) -> None:
    op.create_table(name, *columns)


def upgrade() -> None:
{body}


def downgrade() -> None:
    op.get_bind().execute(sa.text("select 1")).fetchall()
'''

SAFE = {
    "tables": '_table("t", sa.Column("id", sa.Integer, primary_key=True))',
    "a clock of the server's": 'op.add_column("t", sa.Column("at", sa.DateTime, '
    "server_default=sa.func.now()))",
    "a dialect's types": 'op.add_column("t", sa.Column("j", postgresql.JSONB(sa.Text())))',
    "a batch": 'with op.batch_alter_table("t") as batch_op:\n    batch_op.drop_column("x")',
    "an index apart": "with op.get_context().autocommit_block():\n"
    '    op.create_index("i", "t", ["x"], postgresql_concurrently=True)',
    "rows": 'op.bulk_insert(things, [{"id": n, "name": name} for n, name in enumerate(NAMES)])',
    "an update": "op.execute(things.update().where(things.c.id == 1).values(name='x'))",
    "a fixed date": "op.execute(f\"delete from t where at < '{datetime(2020, 1, 1)}'\")",
    "a name of the convention": 'op.drop_constraint(op.f("fk_t"), "t", type_="foreignkey")',
    "a subquery": "op.execute(things.delete().where(things.c.id.in_(sa.select(things.c.id))))",
}

UNSAFE = {
    "clock": ("", "op.execute(f\"insert into t values ('{datetime.now()}')\")", "reads the clock"),
    "day": ("import datetime as d", "op.execute(str(d.date.today()))", "reads the clock"),
    "time": ("import time", "op.execute(str(time.time()))", "reads the clock"),
    "random": ("import random", "op.execute(str(random.random()))", "draws a random value"),
    "secret": ("from secrets import token_hex", "op.execute(token_hex())", "draws a random value"),
    "uuid": ("import uuid", 'op.execute(f"update t set u = {uuid.uuid4()}")', "makes a UUID"),
    "uuid by name": ("from uuid import uuid4 as new", "op.execute(str(new()))", "makes a UUID"),
    "uuid as a default": (
        "import uuid",
        'op.add_column("t", sa.Column("u", sa.Uuid, default=uuid.uuid4))',
        "makes a UUID",
    ),
    "environment": ("import os", 'op.execute(os.environ["X"])', "asks the system"),
    "environment by name": ("from os import getenv", 'op.execute(getenv("X"))', "asks the system"),
    "file": ("", 'op.execute(open("data.sql").read())', "open is not known"),
    "path": ("from pathlib import Path", 'op.execute(Path("x").read_text())', "reads"),
    "beside": ("", "op.execute(__file__)", "__file__ is not known"),
    "network": (
        "import urllib.request",
        'op.execute(urllib.request.urlopen("http://x").read())',
        "network",
    ),
    "bind": ("", "op.get_bind()", "asks the database"),
    "query": ("", 'op.execute("select 1").fetchall()', "asks the database"),
    "session": ("from sqlalchemy.orm import Session", "Session(None)", "asks the database"),
    "inspect": ("", "sa.inspect(None).get_columns('t')", "asks the database"),
    "inspect by name": ("from sqlalchemy import inspect", "inspect(None)", "asks the database"),
    "reflection": ("", 'sa.Table("t", sa.MetaData(), autoload_with=None)', "asks the database"),
    "async": ("", "op.run_async(None)", "asks the database"),
    "mode": ("from alembic import context", "context.is_offline_mode()", "context"),
    "mode of the context": ("", "op.get_context().as_sql", "in which mode"),
    "dialect": ("", 'op.get_context().dialect.name == "postgresql"', "what is configured"),
    "arguments": ("from alembic import context", "context.get_x_argument()", "context"),
    "swallowed error": ("", "try:\n    op.drop_table('t')\nexcept Exception:\n    pass", "catches"),
    "exec": ("", 'exec("1")', "exec is not known"),
    "eval": ("", 'eval("1")', "eval is not known"),
    "getattr": ("", 'getattr(op, "get_" + "bind")()', "getattr is not known"),
    "import inside": (
        "",
        "import random\nop.execute(str(random.random()))",
        "imports in a function",
    ),
    "dynamic import": ("", '__import__("random")', "__import__ is not known"),
    "globals": ("", 'globals()["x"]', "globals is not known"),
    "hash": ("", "op.execute(str(hash('x')))", "hash is not known"),
    "identity": ("", "op.execute(str(id(op)))", "id is not known"),
    "unknown name": ("", "somewhere.call()", "somewhere is not known"),
    "unknown package": ("import weird_package", "pass", "weird_package, which is not known"),
    "star": ("from datetime import *", "pass", "every name"),
    "dunder": ("", "().__class__", "__class__ is not known"),
    "operations passed on": ("", "print(op)", "passed on"),
    "counter": ("COUNT = 0", "global COUNT\nCOUNT += 1", "outlives"),
    "own operation": ("", "op.invoke(None)", "op.invoke"),
    "unknown operation": ("", "op.run_my_operation()", "op.run_my_operation is not known"),
    "event": ("from sqlalchemy import event", "event.listen(None, 'x', None)", "asks the database"),
}


def revision(body: str, imports: str = "") -> bytes:
    return FILE.format(imports=imports, body=textwrap.indent(body, "    ")).encode()


@pytest.mark.parametrize("body", SAFE.values(), ids=SAFE.keys())
def test_what_only_writes_is_safe(body: str) -> None:
    assert list(unsafe_in("r1.py", revision(body), (), "")) == []


@pytest.mark.parametrize(("imports", "body", "reason"), UNSAFE.values(), ids=UNSAFE.keys())
def test_what_may_give_other_sql_is_found_with_its_line(
    imports: str, body: str, reason: str
) -> None:
    content = revision(body, imports)
    (found, *_) = unsafe_in("versions/r1.py", content, (), "")
    assert reason in found.reason
    assert str(found).startswith(f"r1.py:{found.line}: ")
    line = content.decode().splitlines()[found.line - 1].strip()
    assert line in {*imports.splitlines(), *map(str.strip, body.splitlines())}


@pytest.mark.parametrize(
    "content", [b"def upgrade(:", b"\0", b"\xff"], ids=["syntax", "null", "encoding"]
)
def test_a_file_that_is_no_python_is_unsafe(content: bytes) -> None:
    (found,) = unsafe_in("r1.py", content, (), "")
    assert "cannot be read" in found.reason
    assert list(unsafe_in("r1.pyc", revision("pass"), (), ""))


def scan(root: Path, *, env: str = "", module: str = "", imports: str = "") -> list[str]:
    """What is found in a project with one revision and a module of the application."""

    def revisions(folder: Path) -> None:
        alembic_projects.revision(folder, "r1", None, imports=imports)

    made = alembic_projects.project(root, "generic", "sqlite:///x.db", revisions=revisions)
    (root / "shop.py").write_text(module, "utf-8")
    env_py = root / "migrations" / "env.py"
    env_py.write_text(f"{env_py.read_text('utf-8')}\n{env}\n", "utf-8")
    target = Target("sqlite+aiosqlite:///x.db", made.config)
    try:
        history = History(alembic_config(target, target.application_url))
        of_revisions = unsafe_revisions(history, ["r1"]).values()
        found = [*unsafe_in_env(history), *(each for found in of_revisions for each in found)]
        return list(map(str, found))
    finally:
        sys.modules.pop("shop", None)


class TestModulesOfTheApplication:
    """A revision is as safe as what it imports of the application."""

    def test_one_that_only_defines_is_safe(self, tmp_path: Path) -> None:
        module = "import sqlalchemy as sa\nSTATES = ('new', 'old')\n"
        assert scan(tmp_path, module=module, imports="from shop import STATES") == []

    def test_one_that_draws_is_found_where_it_does(self, tmp_path: Path) -> None:
        module = "import uuid\n\ndef key():\n    return uuid.uuid4()\n"
        (found,) = scan(tmp_path, module=module, imports="from shop import key")
        assert found == "shop:4: uuid.uuid4 makes a UUID"

    def test_one_that_nobody_imports_is_not_read(self, tmp_path: Path) -> None:
        assert scan(tmp_path, module="import uuid\nKEY = uuid.uuid4()\n") == []


class TestEnv:
    """env.py is rendered, not replayed: it may do what is the same for every tenant."""

    @pytest.mark.parametrize(
        "env",
        [
            "import os\nurl = os.environ.get('DATABASE_URL')",
            "from shop import models\n",
            "if os_name := __name__ == 'env_py':\n    pass",
            "def include_object(o, name, kind, *_):\n    return name not in ('spatial_ref_sys',)\n"
            "options = dict(include_object=include_object)",
        ],
    )
    def test_what_is_the_same_for_all_is_safe(self, env: str, tmp_path: Path) -> None:
        assert scan(tmp_path, env=env) == []

    @pytest.mark.parametrize(
        ("env", "reason"),
        [
            ("import random\nrandom.random()", "random.random draws a random value"),
            ("import time\nbegan = time.time()", "time.time reads the clock"),
            ("tenant = ''\nif tenant == 'acme':\n    pass", "decides by a text"),
            ("tenant = ''\nif tenant in ('acme', 'globex'):\n    pass", "decides by a text"),
            ("match config.attributes.get('t'):\n    case 'acme':\n        pass", "by a pattern"),
        ],
    )
    def test_what_may_be_another_thing_for_each_tenant_is_found(
        self, env: str, reason: str, tmp_path: Path
    ) -> None:
        (found,) = scan(tmp_path, env=env)
        assert found.startswith("env.py:") and reason in found
