"""What a revision may use so that the same SQL comes of it for every tenant; all else is unsafe."""

from __future__ import annotations

OPERATIONS = frozenset(
    (
        *(
            "add_column",
            "alter_column",
            "batch_alter_table",
            "bulk_insert",
            "create_check_constraint",
        ),
        *("create_exclude_constraint", "create_foreign_key", "create_index", "create_primary_key"),
        *("create_table", "create_table_comment", "create_unique_constraint", "drop_column"),
        *("drop_constraint", "drop_index", "drop_table", "drop_table_comment", "execute", "f"),
        *("inline_literal", "rename_table"),
    )
)
"""Of `alembic.op`: what only writes."""

MODULES = frozenset(
    (
        *("sqlalchemy", "alembic.op", "typing", "typing_extensions", "collections", "__future__"),
        *("enum", "decimal", "json", "textwrap", "re", "itertools", "functools", "math", "string"),
        *("datetime", "uuid", "dataclasses", "operator", "abc", "types", "fractions", "base64"),
        *("hashlib", "unicodedata", "ipaddress", "logging.getLogger", "warnings.warn"),
        *("sqlmodel.sql.sqltypes", "sqlalchemy_utils.types", "pgvector.sqlalchemy"),
        *("geoalchemy2.types", "geoalchemy2.Geometry", "geoalchemy2.Geography"),
    )
)
"""Modules whose functions give the same for the same arguments, but for `DENIED`."""

DENIED: dict[str, str] = {
    **dict.fromkeys(
        (
            *("datetime.datetime.now", "datetime.datetime.utcnow", "datetime.datetime.today"),
            *("datetime.date.today", "time", "calendar"),
        ),
        "reads the clock",
    ),
    **dict.fromkeys(("uuid.uuid1", "uuid.uuid3", "uuid.uuid4", "uuid.uuid5"), "makes a UUID"),
    **dict.fromkeys(("uuid.uuid6", "uuid.uuid7", "uuid.uuid8", "uuid.getnode"), "makes a UUID"),
    **dict.fromkeys(("random", "secrets", "numpy.random"), "draws a random value"),
    **dict.fromkeys(("os", "sys", "platform", "getpass", "socket", "locale"), "asks the system"),
    **dict.fromkeys(("pathlib", "io", "tempfile", "shutil", "csv", "glob"), "reads files"),
    **dict.fromkeys(("requests", "httpx", "urllib", "http", "aiohttp"), "uses the network"),
    **dict.fromkeys(
        (
            *("sqlalchemy.inspect", "sqlalchemy.inspection", "sqlalchemy.reflection"),
            *("sqlalchemy.engine", "sqlalchemy.orm.Session", "sqlalchemy.orm.sessionmaker"),
            *("sqlalchemy.orm.scoped_session", "sqlalchemy.orm.object_session"),
            *("sqlalchemy.create_engine", "sqlalchemy.ext.asyncio", "sqlalchemy.ext.automap"),
            *("sqlalchemy.engine_from_config", "sqlalchemy.create_pool_from_url"),
            *("sqlalchemy.create_mock_engine", "sqlalchemy.event", "sqlalchemy.pool"),
        ),
        "asks the database",
    ),
    "sqlalchemy.ext.compiler": "changes how SQL is written",
}
"""What is not allowed, by its dotted beginning, and why."""

ATTRIBUTES: dict[str, str] = {
    **dict.fromkeys(
        (
            *("get_bind", "bind", "connection", "connect", "begin", "begin_nested", "run_async"),
            *("fetchone", "fetchall", "fetchmany", "scalar", "scalars", "scalar_one", "mappings"),
            *("scalar_one_or_none", "rowcount", "one_or_none", "reflect", "run_sync", "invoke"),
            *("autoload_with", "autoload", "exec_driver_sql", "get_table_names", "get_columns"),
            *(
                "execute",
                "has_table",
                "has_column",
                "get_indexes",
                "commit",
                "rollback",
                "flush",
                "query",
            ),
        ),
        "asks the database",
    ),
    **dict.fromkeys(("is_offline_mode", "as_sql"), "asks in which mode it is run"),
    **dict.fromkeys(
        (
            "dialect",
            "impl",
            "get_x_argument",
            "config",
            "attributes",
            "opts",
            "environment_context",
        ),
        "asks for what is configured",
    ),
    **dict.fromkeys(("now", "utcnow", "today"), "reads the clock"),
    **dict.fromkeys(("environ", "getenv", "read_text", "read_bytes", "open"), "reads outside"),
    **dict.fromkeys(("register_operation", "implementation_for"), "changes what operations do"),
}
"""Attributes of whatever object that are not allowed; those of `sqlalchemy.func` are SQL."""

BUILTINS = frozenset(
    (
        *("None", "True", "False", "bool", "bytes", "dict", "enumerate", "filter", "float"),
        *("frozenset", "int", "isinstance", "issubclass", "len", "list", "map", "max", "min"),
        *("print", "range", "repr", "reversed", "round", "set", "sorted", "str", "sum"),
        *(
            "tuple",
            "type",
            "zip",
            "any",
            "all",
            "abs",
            "divmod",
            "ord",
            "chr",
            "super",
            "staticmethod",
        ),
        *("classmethod", "property", "Exception", "ValueError", "TypeError", "KeyError"),
        # names that a user's revision may use: what it raises stops the rendering
        *("NotImplementedError", "NotImplemented"),  # users' downgrades: no gap of ours
        *("RuntimeError", "AssertionError", "__name__"),
        *(
            "__doc__",
            "StopIteration",
            "slice",
            "iter",
            "next",
            "bytearray",
            "complex",
            "pow",
            "format",
        ),
    )
)
"""Built-in names that read nothing; `hash`, `id`, `open` and `exec` are not among them."""

OF_AUTOGENERATE = frozenset(
    (
        *("include_object", "include_name", "process_revision_directives", "render_item"),
        *("compare_type", "compare_server_default"),
    )
)
"""Options of `context.configure` whose functions no upgrade calls."""

OF_CHANCE = ("reads the clock", "makes a UUID", "draws a random value")
"""What env.py may not do either: for the rest it is rendered, and not replayed."""
