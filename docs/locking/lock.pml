/*
 * The lock protocol of ../locking.md as a model for spin; model.md beside this file explains it.
 *
 * Each of NPROC clients is one start of the application. The world of a client is what happens
 * without it: the server finishes a statement or ends a session; the machine kills or freezes the
 * client. There is no time: whatever may be late may happen at any moment.
 *
 *   (nothing)     PostgreSQL, snapshots as template copies
 *   -DDUMP        PostgreSQL, snapshots as dumps, whose journal is in the target
 *   -DPLACES=2    PostgreSQL, every second client takes the lock in another database of the server
 *   -DSQLITE      a SQLite file: what a process has open ends with it, and there is no lease
 */

#ifndef NPROC
#define NPROC 3
#endif
#ifndef DEATHS
#define DEATHS 2
#endif
#ifndef FREEZES
#define FREEZES 1 /* for longer than the lease */
#endif
#ifndef CUTS
#define CUTS 0 /* the lock's session is ended in the middle of what it does */
#endif
#ifndef LIMIT
#define LIMIT 5 /* max_failed_starts */
#endif
#ifndef PLACES
#define PLACES 1
#endif
#ifdef SQLITE
#undef CUTS
#define CUTS 0
#endif

#define NOBODY 255
#define BIT(n) (1 << (n))
#define PLACE(n) ((n) % PLACES)

/* What the database holds: the old heads, a part of the migration, the wanted heads. */
#define BEFORE 0
#define HALF 1
#define GOAL 2

/* What is asked of the server: to commit one of the three above, or one of these. */
#define BEGUN 3    /* write a record: this start began */
#define FAILED 4   /* write a record: how it failed */
#define REMOVE 5   /* remove the record */
#define OPEN 6     /* the snapshot is complete: open the journal */
#define RESTORE 7  /* put the snapshot back */
#define CLOSE 8    /* close the journal */
#define UNDO 9     /* note that a restore begins */
#define UNDONE 10  /* note that it has ended */

/* A session; only a named one is found by the lock's next holder. */
#define NONE 0
#define IDLE 1
#define NAMED 2
#define BUSY 3

/* The journal. */
#define CLOSED 0
#define MIGRATING 1
#define RESTORING 2

/* How a client ended. */
#define CURRENT 1
#define MIGRATED 2
#define BROKEN 3    /* with the failure of its own attempt, or of its leader's */
#define LOST 4      /* its lock was gone */
#define WAITED 5    /* lock_timeout */
#define STOPPED 6   /* too many starts have failed */

/* The events of a recorded trace that are not one of the requests above. */
#define STARTED 11
#define LOCKED 12
#define FENCED 13
#define REPAIRED 14
#define COMMITTED 15
#define KILLED 16
#define FROZEN 17
#define THAWED 18
#define ENDED 20    /* and how */

#ifdef TRACE
#include TRACE
byte at[2 * NPROC]; /* how many of its events each client has had, and how many each world */
#define MAY(n, event) ALLOWED(n, event)
#define HAS(n) at[n]++
#else
#define MAY(n, event) true
#define HAS(n) skip
#endif

byte db = BEFORE;
byte copy;            /* what the snapshot holds */
byte journal = CLOSED;
bit replaced;         /* what a restore has replaced still has its first name */
byte record;          /* 0, BEGUN or FAILED */
byte record_plan;     /* what was left to do */
byte record_starts;
byte record_binds;    /* the clients that had begun by then */

byte holder[PLACES] = NOBODY;
byte lock[NPROC];     /* the lock's session */
byte work[NPROC];     /* the session that migrates, or writes a record */
byte named;           /* the clients whose working session has the name */
byte doomed;          /* those whose working session was told to end */
byte asks[NPROC];     /* what is asked in the session that is busy */

byte dead, frozen, began;
byte ended[NPROC];
byte deaths, freezes, cuts;
#define UP(n) (!((dead | frozen) & BIT(n)))

/* What is there only to be checked. */
byte leader = NOBODY; /* who was the last to see that its predecessors are gone */
bit restored;         /* since the last restore no leader was interrupted, none has done with the
                         repair of another's half, and no start has come later */
byte tries[2];        /* starts that migrated, by what was left to do */

inline forget(n) {    /* the working session of a client is over */
    work[n] = NONE;
    named = named & ~BIT(n);
    doomed = doomed & ~BIT(n)
}

inline lose(n) {      /* the lock's session of a client is over, and the lock with it */
    if
    :: holder[PLACE(n)] == n -> holder[PLACE(n)] = NOBODY
    :: else
    fi;
    if
    :: leader == n -> restored = 0
    :: else
    fi;
    lock[n] = NONE
}

inline execute(n) {   /* what was asked takes place, whole */
    assert(leader == n);               /* nobody changes anything after another has taken over */
    if
    :: asks[n] <= GOAL ->
        assert(db <= asks[n]);         /* nobody put back what this client goes on from */
        db = asks[n]
    :: asks[n] == BEGUN || asks[n] == FAILED ->
#if LIMIT < NPROC
        if
        :: asks[n] == BEGUN ->
            record_starts = (record && record_plan == db -> record_starts : 0) + 1
        :: else
        fi;
#endif
        record = asks[n];
        record_binds = (record == FAILED -> began : 0); /* the other's leader may be dead */
        record_plan = db
    :: asks[n] == REMOVE ->
        record = 0;
        record_plan = 0;
        record_starts = 0;
        record_binds = 0
    :: asks[n] == OPEN ->
        copy = db;
        journal = MIGRATING
    :: asks[n] == UNDO -> journal = RESTORING
    :: asks[n] == RESTORE ->
        assert(db != GOAL);            /* what is finished is never put back */
        assert(journal != CLOSED);     /* nor what nobody has promised to put back */
        db = copy;
        assert(!restored);             /* one recovery of one failure */
        restored = holder[PLACE(n)] == n; /* else it is the last act of a leader that is gone */
#ifdef DUMP
        journal = CLOSED;              /* in the same transaction */
        copy = 0
#else
        replaced = 1
#endif
    :: asks[n] == UNDONE ->
        journal = MIGRATING;
        replaced = 0
    :: asks[n] == CLOSE ->
        journal = CLOSED;
        copy = 0
    fi;
    asks[n] = 0
}

#ifdef STEAL
#define FREE(n) (holder[PLACE(n)] == NOBODY || freezes < FREEZES)
#else
#define FREE(n) (holder[PLACE(n)] == NOBODY)
#endif
#define BINDS(n, plan) \
    (record == FAILED && (record_binds & BIT(n)) && record_plan == plan && plan != GOAL)
#ifdef TRACE
#define MORE true
#define IN_ORDER(n) true
#else
#define MORE false
#define IN_ORDER(n) (PLACES > 1 || began == BIT(n) - 1) /* they are alike */
#endif

/* The client's side: each step may be the last before it dies or stands still. */

#define ANSWERED (lock[_pid] != BUSY && work[_pid] != BUSY)

inline confirm() {
    atomic {
        ANSWERED;
        if
        :: lock[_pid] == NONE -> goto lost
        :: else
        fi
    }
}

inline through_the_lock(what) { /* exclusive.py: the lock is not free before it has ended */
    atomic {
        ANSWERED;
        forget(_pid);
        if
        :: lock[_pid] == NONE -> goto lost
        :: else ->
            asks[_pid] = what;
#ifdef ACTS_APART
            work[_pid] = BUSY
#else
            lock[_pid] = BUSY
#endif
        fi
    }
}

inline open_named() { /* connections.py: it has its name, then the lock is confirmed */
#ifdef CONFIRM_FIRST
    confirm();
#endif
    atomic {
        ANSWERED;
        forget(_pid);
        work[_pid] = NAMED;
        named = named | BIT(_pid)
    }
#if !defined(CONFIRM_FIRST) && !defined(NO_FENCE)
    confirm()
#endif
}

inline ask(what) {
    atomic {
        if
        :: work[_pid] == NONE -> goto lost
        :: else -> asks[_pid] = what; work[_pid] = BUSY
        fi
    }
}

inline note(what) { /* locking/session.py: _keep */
#ifdef UNNAMED_RECORD
    confirm();
    atomic { forget(_pid); work[_pid] = IDLE }
#else
    open_named();
#endif
    ask(what)
}

inline commit(what) { /* attachment.py: _fence */
#ifndef NO_FENCE
    confirm();
#endif
    atomic { ANSWERED }
    ask(what)
}

#ifdef DUMP
#define JOURNAL(what) note(what)
#else
#define JOURNAL(what) through_the_lock(what)
#endif

inline put_back() {
#ifdef DUMP
    open_named();
    ask(RESTORE)
#else
    through_the_lock(UNDO);
    through_the_lock(RESTORE);
    through_the_lock(UNDONE)
#endif
}

active [NPROC] proctype client() provided (!(frozen & BIT(_pid))) {
    byte seen; /* what a look without the lock has shown */
    byte saw;  /* what the last look has shown */
    bit open;  /* whether a journal was open then */
    bit own;   /* the journal is this run's own */
    byte how;

    {
    atomic {
        MAY(_pid, STARTED) && IN_ORDER(_pid) -> HAS(_pid);
        began = began | BIT(_pid);
        restored = (record == FAILED -> 0 : restored)
#ifdef TRACE
    }
    atomic {
#endif
        /* pipeline.py: _at_head */
        seen = db;
        open = journal != CLOSED;
        if
        :: seen == GOAL && !open -> goto current
        :: else
        fi
    }

take:
    /* locking/advisory.py: Turns; lock_files.py: taken */
    if
    :: atomic {
        FREE(_pid) && MAY(_pid, LOCKED) -> HAS(_pid);
#ifdef STEAL
        freezes = freezes + (holder[PLACE(_pid)] != NOBODY);
#endif
        holder[PLACE(_pid)] = _pid;
        lock[_pid] = IDLE
    }
#ifdef SQLITE
    :: atomic { holder[0] != NOBODY && (frozen & BIT(holder[0])) -> goto waited }
#endif
    fi;
#if PLACES == 2 && !defined(ONE_PLACE_SEARCHED)
    do
    :: atomic { lock[_pid] == NONE -> goto lost }
    :: atomic { lock[_pid] != NONE && holder[1 - PLACE(_pid)] == NOBODY -> break }
    :: atomic {
        lock[_pid] != NONE && PLACE(_pid) == 1 && holder[0] != NOBODY ->
        holder[1] = NOBODY;
        lock[_pid] = NONE
    }
        atomic { holder[0] == NOBODY -> goto take }
    od;
#endif

    /* locking/lock.py: _end_predecessors */
#ifdef PREDECESSORS_STAY
    leader = _pid;
#else
    do
    :: atomic { lock[_pid] == NONE -> goto lost }
    :: atomic { lock[_pid] != NONE && (named & ~doomed) != 0 -> doomed = doomed | named }
    :: atomic { lock[_pid] != NONE && named == 0 && MAY(_pid, FENCED) -> HAS(_pid);
        leader = _pid; break }
    od;
#endif

    /* interruption.py: repair; contract/journal.py: needs_nothing */
#ifdef NOT_LOOKED_AGAIN
    saw = seen;
#else
    atomic {
        saw = db;
        open = journal != CLOSED
    }
#endif
    if
    :: !open
    :: open ->
        if
        :: !(saw == GOAL || saw == copy || (journal == RESTORING && replaced)) ->
            put_back()
        :: saw == GOAL || saw == copy || (journal == RESTORING && replaced)
        fi;
        JOURNAL(CLOSE);
        atomic { ANSWERED && MAY(_pid, REPAIRED) -> HAS(_pid); replaced = 0; open = 0; restored = 0 }
    fi;

    /* attempt.py: look again; leader_record.py: inherited; crash_loop.py: count */
    atomic {
        ANSWERED;
        saw = db;
        if
        :: lock[_pid] == NONE -> goto lost
        :: lock[_pid] != NONE && BINDS(_pid, seen) ->
            assert(saw != GOAL); /* nobody is told of a failure that was overcome */
            goto followed
        :: lock[_pid] != NONE && !BINDS(_pid, seen) && saw == GOAL ->
            if
            :: record -> goto reached
            :: else -> goto current
            fi
        :: lock[_pid] != NONE && !BINDS(_pid, seen) && BINDS(_pid, saw) -> goto followed
        :: else ->
            if
            :: record && record_plan == saw && record_starts >= LIMIT -> goto stopped
            :: else
            fi
        fi
    }
#ifndef COUNTED_LATE
    note(BEGUN);
    atomic {
        ANSWERED;
        if
        :: work[_pid] == NONE -> goto lost
        :: else
        fi
    }
#endif
#if LIMIT < NPROC
    atomic { tries[saw]++; assert(tries[saw] <= LIMIT) }
#endif
    if
    :: JOURNAL(OPEN); own = 1
    :: own = 0
    fi;
    open_named();
    do
    :: commit(GOAL); break
    :: atomic { saw == BEFORE || MORE -> saw = HALF }
        commit(HALF)
    :: goto failed /* and what is not committed is rolled back */
    od;
#ifdef COUNTED_LATE
    note(BEGUN);
#endif

    /* pipeline.py: _closed; leader_record.py: leave */
    if
    :: own ->
        JOURNAL(CLOSE)
    :: !own
    fi;
    note(REMOVE);
    atomic { how = MIGRATED; goto over }

failed:
    confirm();
    if
    :: own ->
        put_back();
        JOURNAL(CLOSE)
    :: !own
    fi;
#ifndef NO_RECORD
    note(FAILED);
#endif
    atomic { how = BROKEN; goto over }

followed:
    atomic { how = BROKEN; goto over }
reached: /* by one that died before it could remove its record */
    note(REMOVE);
current:
    atomic { how = CURRENT; goto over }
stopped:
    atomic { how = STOPPED; goto over }
#ifdef SQLITE
waited:
    atomic { how = WAITED; goto over }
#endif
lost:
    atomic { how = LOST }
over:
    atomic {
        ANSWERED;
        forget(_pid);
        if
        :: lock[_pid] != NONE && holder[PLACE(_pid)] == _pid -> holder[PLACE(_pid)] = NOBODY
        :: else
        fi;
        lock[_pid] = NONE;
#ifdef TRACE
    }
    atomic {
#endif
        MAY(_pid, ENDED + how) -> HAS(_pid);
        ended[_pid] = how;
        saw = 0; seen = 0; open = 0; own = 0; how = 0
    }
    } unless { atomic { dead & BIT(_pid) -> saw = 0; seen = 0; open = 0; own = 0; how = 0 } }
}

/* What happens to a client without it. */

#define ME (_pid - NPROC)
#define ALIVE (!(dead & BIT(ME)))
#ifdef SQLITE
#define RUNS UP(ME)
#define STAYS(session) false
#else
#define RUNS true
#define STAYS(session) (session == BUSY) /* the server goes on with what a dead client has sent */
#endif
#ifdef TRACE
#define CONCERNED (began & BIT(ME))
#define EVENT (asks[ME] <= GOAL -> COMMITTED : asks[ME])
#define TOLD (asks[ME] < CLOSE)
#define HAPPENS if :: TOLD -> HAS(ME) :: else fi
#else
#define CONCERNED (lock[ME] != NONE) /* the death of one that only waits changes nothing */
#define EVENT 0
#define TOLD 0
#define HAPPENS skip
#endif

active [NPROC] proctype world() {
    do
    :: d_step {
        RUNS && work[ME] == BUSY && (!TOLD || MAY(ME, EVENT)) ->
        HAPPENS;
        execute(ME);
        if
        :: ALIVE -> work[ME] = ((named & BIT(ME)) -> NAMED : IDLE)
        :: else -> forget(ME)
        fi
    }
    :: d_step {
        RUNS && lock[ME] == BUSY && (!TOLD || MAY(ME, EVENT)) ->
        HAPPENS;
        execute(ME);
        if
        :: ALIVE -> lock[ME] = IDLE
        :: else -> lose(ME)
        fi
    }
    :: d_step { doomed & BIT(ME) -> forget(ME) }
    :: d_step { /* it is killed, and what was idle of it ends: nobody could tell that from later */
        CONCERNED && !ended[ME] && ALIVE && deaths < DEATHS && MAY(NPROC + ME, KILLED) ->
        HAS(NPROC + ME);
        deaths++;
        dead = dead | BIT(ME);
        frozen = frozen & ~BIT(ME);
        if
        :: work[ME] != NONE && !STAYS(work[ME]) -> forget(ME)
        :: else
        fi;
        if
        :: lock[ME] != NONE && !STAYS(lock[ME]) -> lose(ME)
        :: else
        fi
    }
#ifdef TRACE
    :: d_step {
        CONCERNED && !ended[ME] && UP(ME) && MAY(NPROC + ME, FROZEN) -> HAS(NPROC + ME);
        frozen = frozen | BIT(ME)
    }
    :: d_step { (frozen & BIT(ME)) && MAY(NPROC + ME, THAWED) -> HAS(NPROC + ME); frozen = frozen & ~BIT(ME) }
#ifndef SQLITE
    :: d_step { (frozen & BIT(ME)) && lock[ME] == IDLE -> lose(ME) }
#endif
#else
#ifdef SQLITE
    :: d_step { /* it never thaws */
        CONCERNED && !ended[ME] && UP(ME) && freezes < FREEZES ->
        freezes++;
        frozen = frozen | BIT(ME)
    }
#else
    :: d_step { /* it was silent for longer than its lease; it may go on later */
        lock[ME] == IDLE && UP(ME) && freezes < FREEZES -> freezes++; lose(ME)
    }
#endif
#endif
    :: d_step { lock[ME] == BUSY && ALIVE && cuts < CUTS -> cuts++; lose(ME) }
    od
}

/* Nothing more happens: everyone has ended, but the dead and those frozen for good. */
active proctype end() {
    byte n;
#ifdef TRACE
    ACCEPTED -> assert(false)
#else
    timeout ->
    for (n : 0 .. NPROC - 1) {
        assert(ended[n] || ((dead | frozen) & BIT(n)))
    }
#endif
}
