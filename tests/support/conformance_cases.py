"""Cases of the suite for strategies that the quick run asks of one of ours, backup-restore."""

ASKED_OF_ONE = (
    *("postgresql", "any_moment", "several_databases", "passes_before", "repaired"),
    *("in_the_way", "without_a_loop", "not_blocked", "no_secret", "next_is_asked"),
)
