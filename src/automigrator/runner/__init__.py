"""The run of one target, in the order in which it happens.

`targets` and `signals` surround a run, `modes` says whether it may migrate. `fast_path` answers
"nothing to do"; else `pipeline` goes through a target: `session` opens it, `retry` reaches it,
`inspection` compares heads and history, `attempt` brings it to the wanted heads (`rehearsal` first,
on a `side_database`), `failures` makes an error a failure by `diagnosis` and asks the plugins,
`leader_record` and `crash_loop` leave word for others, `interruption` ends a run before its time,
by `time_limit` too. `state` is what these share. `status`, `doctor`, `rollback` and `version_skew`
serve `check()`, `plan()`, `doctor()`, `rollback()` and databases that are newer than the code.
"""
