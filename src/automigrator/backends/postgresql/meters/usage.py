"""How a database is used: what its server counts, and the transactions that are open now."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy.ext.asyncio import AsyncConnection

from automigrator.backends.contract.meter import TableUse, Usage
from automigrator.backends.postgresql.sql import rows_of

_DATABASE = """
    select extract(epoch from clock_timestamp())::float8,
           extract(epoch from clock_timestamp()
                   - coalesce(stats_reset, pg_postmaster_start_time()))::float8,
           xact_commit + xact_rollback
    from pg_stat_database where datname = current_database()
"""

_COUNTED = """
    select case n.nspname when 'public' then c.relname::text
                else n.nspname || '.' || c.relname end,
           {size}, s.seq_scan + coalesce(s.idx_scan, 0), s.n_tup_ins + s.n_tup_upd + s.n_tup_del,
           coalesce(o.oldest, 0), coalesce(o.oldest_writer, 0)
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    left join pg_stat_all_tables s on s.relid = c.oid
    left join (
        select l.relation,
               max(extract(epoch from clock_timestamp() - a.xact_start))::float8 as oldest,
               (max(extract(epoch from clock_timestamp() - a.xact_start))
                filter (where l.mode <> 'AccessShareLock'))::float8 as oldest_writer
        from pg_locks l join pg_stat_activity a on a.pid = l.pid
        where l.locktype = 'relation' and l.granted and l.pid <> pg_backend_pid()
          and l.database = (select oid from pg_database where datname = current_database())
        group by l.relation
    ) o on o.relation = c.oid
    where c.relkind in ('r', 'm', 'p') and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
"""

_NAMED = """
    and case n.nspname when 'public' then c.relname::text
             else n.nspname || '.' || c.relname end = any(:names)
"""


async def usage(connection: AsyncConnection, names: Collection[str] | None) -> Usage:
    """Read what the server counts; `names`: of the tables that matter, None for all.

    The sizes are 0 for all: to ask for one waits for whoever has the table locked.
    """
    ((at, counted_s, transactions),) = await rows_of(connection, _DATABASE)
    if names is None:
        rows = await rows_of(connection, _COUNTED.format(size="0"))
    else:
        query = _COUNTED.format(size="pg_total_relation_size(c.oid)") + _NAMED
        rows = await rows_of(connection, query, names=list(names))
    tables = {name: TableUse(*values) for name, *values in rows}
    return Usage(at, counted_s, transactions, tables)
