"""An example of each option, which the reference shows beside it; a test runs this file."""

from datetime import timedelta
from pathlib import Path

from automigrator_backup_restore import BackupRestore
from automigrator_dask import DaskExecutor
from automigrator_log_and_continue import LogAndContinue
from automigrator_opentelemetry import OpenTelemetry
from automigrator_purge import Purge
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider
from prometheus_client import CollectorRegistry
from sqlalchemy import MetaData
from sqlalchemy.ext.asyncio import create_async_engine

from automigrator import Limits, Migrator, Rehearsal, Target, Timeouts, hookimpl
from automigrator.asgi import Gate
from automigrator.fleet import Fleet, Tenant, TenantGate, databases, files, schemas
from automigrator.fleet.executors.claims import Claims
from automigrator.fleet.executors.local import Local
from automigrator.fleet.executors.processes import Processes
from automigrator.fleet.executors.shards import Shards
from automigrator.fleet.rollout import Rules
from automigrator.prometheus import Metrics

engine = create_async_engine("postgresql+asyncpg://owner@db.example/shop")
metadata = MetaData()


class Hooks:
    @hookimpl
    def before_migrate(self, run):
        print("about to migrate", run.name)


async def app(scope, receive, send):
    """Any ASGI application."""


def load_app():
    """Import what env.py needs: models, settings."""


def region_of(name):
    return name.partition("_")[0]


def tenant_of(scope):
    return scope["path"].split("/")[1] or None


def is_operator(scope):
    return scope["client"][0].startswith("10.")


Target(
    database=engine,
    config="alembic.ini",
    name="shop",
    revision="3f2a",
    section="shop",
    attributes={"tenant": "acme"},
    x=["tenant=acme"],
    version_table="shop_version",
    version_table_schema="shop",
    create=False,
    load=load_app,
    bootstrap=metadata.create_all,
    baseline="3f2a",
    edited="refuse",
    recovery=["purge", "log-and-continue"],
    migrate_with="postgresql+asyncpg://ddl@db.example/shop",
    maintenance_database="defaultdb",
    allow_links=True,
    drive="own",
    timeouts=Timeouts(lock=60),
    check_room=False,
    max_failed_starts=3,
    last_resort="continue",
    ahead="serve",
    version="2.4.1",
    rehearse=True,
)
Target(
    database="sqlite+aiosqlite:///app.db",
    config="alembic.ini",
    connect_timeout=10,
    lock_timeout=60,
    retry_timeout=0,
    load_timeout=120,
    statement_timeout=600,
    revision_timeout=3600,
)
Timeouts(
    connect=10,
    lock=60,
    retry=0,
    load=120,
    statement=600,
    revision=3600,
    hook=5,
    run=7200,
)
Rehearsal(
    copy="template",
    disconnect_others=True,
    binaries="/usr/lib/postgresql/18/bin",
    max_block=0.5,
    max_time=60,
    max_growth=10_000_000_000,
    defer=True,
)
Limits(
    keep=5,
    max_age=timedelta(days=30),
)

target = Target("sqlite+aiosqlite:///app.db", "alembic.ini")
Migrator(
    target,
    mode="migrate",
    recovery=[("backup-restore", {"keep": 5}), "log-and-continue"],
    plugins=[Hooks()],
    allow_partial=True,
    timeouts=Timeouts(lock=60, run=600),
    max_failed_starts=3,
    last_resort="continue",
    ahead="serve",
    rehearse=Rehearsal(max_block=0.5),
    stop_on_signals=False,
    announce=False,
)
migrator = Migrator(
    target,
    hook_timeout=5,
    run_timeout=600,
)

Gate(
    app=app,
    migrator=migrator,
    livez="/up",
    readyz=None,
    prefix="/internal/migration",
    metrics="/metrics",
    on_failure="exit",
    retry_every=10,
    details=is_operator,
    page="page.html",
    retry_after=30,
    head_start=0,
    development=True,
)
Metrics(registry=CollectorRegistry())

fleet = Fleet(
    tenants=files("tenants", "alembic.ini"),
    name="shops",
    groups=["internal", "free", "paying"],
    canary=["acme"],
    concurrency={"canary": 1, "*": 16},
    per_server=4,
    max_failures={"paying": 0, "*": 0.05},
    executor=("processes", {"workers": 4}),
    control="postgresql+asyncpg://owner@db.example/control",
    source="shop.tenants:fleet",
    replay=True,
    mode="migrate",
)
Rules(
    groups=["internal", "free", "paying"],
    canary=2,
    concurrency=16,
    per_server=4,
    max_failures=10,
)
TenantGate(
    app=app,
    fleet=fleet,
    tenant_of=tenant_of,
    unknown="refuse",
    retry_after=30,
)
Tenant(
    name="acme",
    target=target,
    group="free",
    schema="acme",
)
schemas(
    database=engine,
    config="alembic.ini",
    query="SELECT schema, plan FROM tenants",
    group=region_of,
    version_table="alembic_version",
    version_table_schema="{schema}",
    x=["tenant={schema}"],
)
schemas(database=engine, config="alembic.ini", like="tenant\\_%", x=["tenant={schema}"])
databases(
    "postgresql+asyncpg://owner@db.example/control",
    config="alembic.ini",
    query="SELECT datname FROM pg_database WHERE datname ~ '^shop_'",
    group=region_of,
)
databases(
    "postgresql+asyncpg://owner@db.example/control",
    config="alembic.ini",
    like="shop\\_%",
    x=["tenant={database}"],
)
files(
    folder="/srv/tenants",
    config="alembic.ini",
    pattern="**/*.sqlite3",
    group=region_of,
    driver="sqlite+pysqlite",
    attributes={"file": "{file}"},
)
Local(tasks=4)
Processes(
    workers=4,
    tasks=2,
    silent_s=60,
    start_s=300,
    stop_s=10,
    max_losses=3,
    max_deaths=2,
)
Shards(
    index=0,
    count=8,
    inner=Processes(workers=4),
    tasks=4,
)
Claims(
    control="postgresql+asyncpg://owner@db.example/control",
    inner=Processes(workers=4),
    tasks=4,
    lease_s=60,
    poll_s=5,
)
DaskExecutor(
    cluster="tls://scheduler.example:8786",
    tls_ca_file="/etc/dask/ca.pem",
    tls_client_cert="/etc/dask/client.pem",
    tls_client_key="/etc/dask/client-key.pem",
    wait_s=300,
    stop_s=10,
    speculate_s=600,
)

BackupRestore(
    snapshot="always",
    then="retry",
    keep=5,
    keep_replaced=3,
    max_age=30,
    folder=Path("/var/backups/shop"),
    disconnect_others=True,
    copy="dump",
    binaries="/usr/lib/postgresql/18/bin",
    repeatable=["3f2a"],
)
Purge(
    set_aside=False,
    keep=2,
    max_age=timedelta(days=30),
    disconnect_others=True,
    python_errors=True,
    also=["apscheduler_jobs"],
    when="damaged",
)
LogAndContinue(
    ahead=True,
    corrupt=True,
)
OpenTelemetry(
    tracer_provider=TracerProvider(),
    meter_provider=MeterProvider(),
)
