#!/bin/sh
# Migrates, then becomes the container's command.
# A shell that waits for a command in the foreground hears no signal until that has ended, so the migration runs in the
# background. It is told to stop, and rolls back.
set -eu
stopped='' migration=''
tell() {
    stopped=1
    [ -z "$migration" ] || kill -TERM "$migration" 2>/dev/null || :
}
trap tell TERM INT
automigrator --app shop:migrator run &
migration=$!
[ -z "$stopped" ] || tell
code=0
wait "$migration" || code=$?
while kill -0 "$migration" 2>/dev/null; do # a signal has ended the wait, not the migration
    code=0
    wait "$migration" || code=$?
done
[ "$code" -eq 0 ] || exit "$code"
[ -z "$stopped" ] || exit 143 # it had migrated already: the application is not started all the same
trap - TERM INT
unset MIGRATION_URL # the application does not get the role that changes the schema
exec "$@"
