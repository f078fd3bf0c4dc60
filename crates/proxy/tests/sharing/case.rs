//! A case: what a session does, what shows it, and what has become of it for the other session.

/// One flight of a client.
#[derive(Clone, Debug)]
pub(crate) enum Flight {
    /// A simple query.
    Query(&'static str),
    /// Parse, Bind, Execute of each, and one Sync behind all.
    Pipeline(&'static [&'static str]),
    /// Prepared under a name in a flight before.
    Named(&'static str),
    /// A function call of the protocol, of a function without arguments.
    Call(&'static str),
}
pub(crate) use Flight::{Call, Named, Pipeline, Query};

/// What has become of the state, for the other session.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Then {
    /// It is made again on whichever server connection; so the other one gets the only one.
    Carried,
    /// Its server connection is kept, and the other session is refused.
    Kept,
    /// Nothing is left of it, as on a direct connection.
    Nothing,
}
pub(crate) use Then::{Carried, Kept, Nothing};

pub(crate) struct Case {
    pub(crate) name: &'static str,
    /// By whoever owns the database, before.
    pub(crate) define: &'static str,
    pub(crate) flights: Vec<Flight>,
    pub(crate) probe: &'static str,
    pub(crate) then: Then,
}

pub(crate) fn case(
    name: &'static str,
    define: &'static str,
    flights: &[Flight],
    probe: &'static str,
    then: Then,
) -> Case {
    Case {
        name,
        define,
        flights: flights.to_vec(),
        probe,
        then,
    }
}

pub(crate) const MEM: &str = "SELECT current_setting('work_mem')";
pub(crate) const ZONE: &str = "SELECT current_setting('TimeZone'), '2024-06-01 12:00'::timestamptz";
pub(crate) const CUSTOM: &str = "SELECT nullif(current_setting('app.x', true), '')";
pub(crate) const COMPUTED: &str = "SELECT nullif(current_setting('ap' || 'p.hidden', true), '')";
pub(crate) const TEMP: &str = "SELECT pg_my_temp_schema() <> 0 AND EXISTS \
    (SELECT FROM pg_class WHERE relnamespace = pg_my_temp_schema())";
pub(crate) const LOCKS: &str =
    "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()";
pub(crate) const LISTENS: &str = "SELECT count(*) FROM pg_listening_channels()";
pub(crate) const CURSORS: &str = "SELECT count(*) FROM pg_cursors WHERE is_holdable";
pub(crate) const PREPARED: &str = "SELECT count(*) FROM pg_prepared_statements WHERE from_sql";
pub(crate) const ROLE: &str = "SELECT current_setting('role'), current_user = session_user";
pub(crate) const RANDOM: &str = "SELECT random()";
pub(crate) const CURRVAL: &str = "SELECT currval('s')";
