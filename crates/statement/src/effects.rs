//! The set of things a text may do to its session.

use std::{fmt, ops};

/// What a text may do, one bit each; cheap to copy, keep and join.
#[derive(Clone, Copy, Eq, PartialEq, Hash, Default)]
pub struct Effects(u32);

impl Effects {
    /// Nothing that outlives its transaction, and nothing that runs what the text does not show.
    pub const NONE: Self = Self(0);

    /// May change, for longer than its transaction, settings that the server can be asked about:
    /// `SET`, `RESET`, `set_config`, `UPDATE pg_settings`, `CREATE EXTENSION`. `SET LOCAL` and
    /// `set_config(…, true)` are not counted, though PostgreSQL remembers a custom name for the
    /// rest of the session: `current_setting(name, true)` is then empty, where it was null.
    pub const SETTINGS: Self = Self(1);
    /// May set custom settings under names that the text does not show, so that the server cannot
    /// be asked for them: `set_config($1, …, false)`, text that is run as SQL.
    pub const UNNAMED: Self = Self(1 << 1);
    /// May make or drop temporary objects: everything that creates something (the first schema of
    /// `search_path` may be `pg_temp`), `SELECT INTO`.
    pub const TEMP: Self = Self(1 << 2);
    /// `LISTEN`, `UNLISTEN`.
    pub const LISTEN: Self = Self(1 << 3);
    /// Takes or gives back advisory locks of the session. Those of the transaction do not count.
    pub const ADVISORY: Self = Self(1 << 4);
    /// `DECLARE … WITH HOLD`, `CLOSE`.
    pub const HOLD: Self = Self(1 << 5);
    /// `PREPARE name AS`.
    pub const PREPARE: Self = Self(1 << 6);
    /// `SET ROLE`, `SET SESSION AUTHORIZATION`, and what resets them.
    pub const ROLE: Self = Self(1 << 7);
    /// Seeds `random()`, which the server cannot be asked about: `setseed`, `SET seed`, also
    /// `SET LOCAL`. Not seen: `set_config($1, …, true)` whose parameter says `seed`.
    pub const SEED: Self = Self(1 << 8);
    /// Changes the server process in a way it cannot be asked about: `LOAD`, replication origins,
    /// temporary replication slots, backup mode.
    pub const LOAD: Self = Self(1 << 9);
    /// May change what the definitions of the database do (functions, views, triggers,
    /// operators, …), so whatever is known about them is out of date.
    pub const DDL: Self = Self(1 << 10);
    /// Runs text as SQL, or a statement kept under a name: `DO`, `EXECUTE`, `query_to_xml` and
    /// its family, `ts_stat`, `CREATE EXTENSION`. It may do anything; of `DO`, what its text
    /// shows is told as well.
    pub const RUNS: Self = Self(1 << 11);
    /// Calls something by name that is not a known harmless function of `pg_catalog`; also `CALL`.
    pub const CALLS: Self = Self(1 << 12);
    /// Refers to relations: their views, rules, triggers, defaults, checks and policies may run.
    pub const TOUCHES: Self = Self(1 << 13);
    /// Evaluates expressions: operators, casts, checks of domains, and functions of users that
    /// share the name of one of `pg_catalog` ([`crate::is_catalog_function`]) may run.
    pub const EVALUATES: Self = Self(1 << 14);
    /// Reads `currval` or `lastval`.
    pub const READS_SEQUENCE: Self = Self(1 << 15);
    /// May write rows or advance a sequence, and with it what `currval` and `lastval` say.
    /// Functions and relations ([`Self::CALLS`], [`Self::TOUCHES`]) can do that unseen.
    pub const WRITES: Self = Self(1 << 16);
    /// `DISCARD`.
    pub const DISCARD: Self = Self(1 << 17);
    /// `DEALLOCATE`.
    pub const DEALLOCATE: Self = Self(1 << 18);
    /// Begins, ends or divides a transaction.
    pub const TRANSACTION: Self = Self(1 << 19);
    /// `COPY`.
    pub const COPY: Self = Self(1 << 20);
    /// Makes the database larger, as far as the text shows: `INSERT`, `UPDATE`, `MERGE`, `COPY FROM`,
    /// `SELECT INTO`, `CREATE`, `IMPORT`, `REFRESH`, functions that write large objects; also in the text
    /// of a `DO`, and behind `PREPARE` and `EXPLAIN`. Not counted: `ALTER`, `CLUSTER`, `REINDEX` and `VACUUM`, which
    /// write anew what is there. Functions and relations ([`Self::CALLS`], [`Self::TOUCHES`]) and what is run
    /// ([`Self::RUNS`]) can do it unseen.
    pub const GROWS: Self = Self(1 << 22);
    /// Shows what the session has prepared: `pg_prepared_statements`. Views and functions can do it unseen.
    pub const SHOWS_PREPARED: Self = Self(1 << 23);
    /// Not understood; may do anything. [`Self::RUNS`] and [`Self::UNNAMED`] are set with it.
    pub const UNKNOWN: Self = Self((1 << 21) | Self::RUNS.0 | Self::UNNAMED.0);

    /// What may leave the session different whatever the definitions of its database are. Without
    /// one of these, and when no definition does harm, the session is as it was.
    pub const LASTING: Self = Self(
        Self::SETTINGS.0
            | Self::UNNAMED.0
            | Self::TEMP.0
            | Self::LISTEN.0
            | Self::ADVISORY.0
            | Self::HOLD.0
            | Self::PREPARE.0
            | Self::ROLE.0
            | Self::SEED.0
            | Self::LOAD.0
            | Self::RUNS.0
            | Self::DISCARD.0
            | Self::DEALLOCATE.0
            | Self::UNKNOWN.0,
    );
    /// What may run definitions of the database that the text does not show.
    pub const UNSEEN: Self = Self(Self::CALLS.0 | Self::TOUCHES.0 | Self::EVALUATES.0);

    /// Whether all of `other` are in it.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether one of `other` is in it.
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether there are none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Both together, where `|` cannot stand.
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Those that are not in `other`.
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

impl ops::BitOr for Effects {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        self.with(other)
    }
}

impl ops::BitOrAssign for Effects {
    fn bitor_assign(&mut self, other: Self) {
        *self = self.with(other);
    }
}

const NAMES: [(Effects, &str); 24] = [
    (Effects::SETTINGS, "settings"),
    (Effects::UNNAMED, "unnamed"),
    (Effects::TEMP, "temp"),
    (Effects::LISTEN, "listen"),
    (Effects::ADVISORY, "advisory"),
    (Effects::HOLD, "hold"),
    (Effects::PREPARE, "prepare"),
    (Effects::ROLE, "role"),
    (Effects::SEED, "seed"),
    (Effects::LOAD, "load"),
    (Effects::DDL, "ddl"),
    (Effects::RUNS, "runs"),
    (Effects::CALLS, "calls"),
    (Effects::TOUCHES, "touches"),
    (Effects::EVALUATES, "evaluates"),
    (Effects::READS_SEQUENCE, "reads_sequence"),
    (Effects::WRITES, "writes"),
    (Effects::DISCARD, "discard"),
    (Effects::DEALLOCATE, "deallocate"),
    (Effects::TRANSACTION, "transaction"),
    (Effects::COPY, "copy"),
    (Effects::GROWS, "grows"),
    (Effects::SHOWS_PREPARED, "shows_prepared"),
    (Effects::UNKNOWN, "unknown"),
];

impl fmt::Debug for Effects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = NAMES.iter().filter(|(effect, _)| self.contains(*effect));
        f.debug_set().entries(names.map(|(_, name)| name)).finish()
    }
}
