#!/bin/sh
# Migrates, then becomes the container's command.
# The migration runs in the background: as process 1 a shell that waits for a command in the foreground does not
# hear SIGTERM, and `docker stop` would kill the migration after 10 seconds. So it is passed on, and rolls back.
set -eu
automigrator --app shop:migrator run &
migration=$!
trap 'kill -TERM "$migration"' TERM INT
code=0
wait "$migration" || code=$?
while kill -0 "$migration" 2>/dev/null; do # a signal has ended the wait, not the migration
    code=0
    wait "$migration" || code=$?
done
trap - TERM INT
[ "$code" -eq 0 ] || exit "$code"
exec "$@"
