//! What a session holds beside its settings: temporary objects, channels, locks, cursors, statements
//! prepared by SQL, the last values of sequences, its role.

use rand::RngExt as _;

use super::Maker;

/// Everything of that, and all settings, as questions. Custom settings are listed nowhere. What the proxy puts
/// behind a RESET among several statements is left out of their texts.
pub(super) const HELD: &[&str] = &[
    "SELECT name, setting FROM pg_catalog.pg_settings WHERE name !~ '^plpgsql' \
     AND name NOT IN ('session_authorization') ORDER BY name",
    "SELECT n, nullif(current_setting(n, true), '') FROM unnest(ARRAY['app.one', 'app.two', \
     'App.Mixed', 'deep.er.name', 'hidden.one']) n",
    "SELECT relname, relkind FROM pg_catalog.pg_class \
     WHERE relnamespace = pg_catalog.pg_my_temp_schema() ORDER BY 1",
    "SELECT (SELECT count(*) FROM pg_catalog.pg_proc WHERE pronamespace = pg_catalog.pg_my_temp_schema()), \
     (SELECT count(*) FROM pg_catalog.pg_collation WHERE collnamespace = pg_catalog.pg_my_temp_schema()), \
     (SELECT count(*) FROM pg_catalog.pg_ts_config WHERE cfgnamespace = pg_catalog.pg_my_temp_schema()), \
     (SELECT count(*) FROM pg_catalog.pg_type WHERE typnamespace = pg_catalog.pg_my_temp_schema())",
    "SELECT * FROM pg_catalog.pg_listening_channels() ORDER BY 1",
    "SELECT name, regexp_replace(statement, ';SET (\"[^;]+\" TO ''[^'']*''|ROLE tenantry_admin)', '', 'g'), \
     is_holdable, is_binary, is_scrollable FROM pg_catalog.pg_cursors \
     WHERE is_holdable ORDER BY 1",
    "SELECT name, regexp_replace(statement, ';SET (\"[^;]+\" TO ''[^'']*''|ROLE tenantry_admin)', '', 'g'), \
     parameter_types FROM pg_catalog.pg_prepared_statements \
     WHERE from_sql ORDER BY 1",
    "SELECT mode, classid, objid, objsubid FROM pg_catalog.pg_locks \
     WHERE locktype = 'advisory' AND pid = pg_catalog.pg_backend_pid() ORDER BY 1, 2, 3, 4",
    "SELECT current_user",
];

impl Maker {
    pub(super) fn held(&mut self) -> String {
        let roles = if self.roles { 4 } else { 0 };
        match self.weighed(&[3, 3, 4, 3, 4, 3, roles, 1]) {
            0 => self.channel(),
            1 => self.lock(),
            2 => self.cursor(),
            3 => self.sequence(),
            4 => self.prepared_by_sql(),
            5 => self.discard(),
            6 => self.role(),
            _ => "LOAD 'plpgsql'".to_owned(),
        }
    }

    fn channel(&mut self) -> String {
        let channel = self.below(2);
        let channel = format!("c{}_{channel}", self.slot);
        match self.below(7) {
            0..=1 => format!("LISTEN {channel}"),
            2 => format!("UNLISTEN {channel}"),
            3 => "UNLISTEN *".to_owned(),
            4 => format!("NOTIFY {channel}, 'payload {}'", self.below(9)),
            5 => format!("SELECT pg_notify('{channel}', 'called')"),
            _ => format!("DO $$ BEGIN EXECUTE 'LISTEN {channel}'; END $$"),
        }
    }

    fn lock(&mut self) -> String {
        let key = self.slot * 10 + self.below(3);
        let function = self.pick(&[
            "pg_advisory_lock",
            "pg_advisory_lock_shared",
            "pg_try_advisory_lock",
            "pg_advisory_xact_lock",
            "pg_advisory_unlock",
            "pg_advisory_unlock",
            "pg_advisory_unlock_shared",
        ]);
        match self.below(8) {
            0..=1 => "SELECT pg_advisory_unlock_all()".to_owned(),
            2 => format!("SELECT {function}({key}, 1)"),
            3 => format!("DO $$ BEGIN PERFORM {function}({key}); END $$"),
            _ => format!("SELECT {function}({key})"),
        }
    }

    fn cursor(&mut self) -> String {
        let cursor = self.pick(&["k1", "k2"]);
        let query = match self.below(3) {
            0 => format!("SELECT v FROM {} ORDER BY id", self.table()),
            1 => format!(
                "SELECT g, {} FROM generate_series(1, 3) g",
                self.set_config()
            ),
            _ => "SELECT g, timestamptz '2020-01-01 00:00+00' FROM generate_series(1, 9) g"
                .to_owned(),
        };
        match self.below(9) {
            0..=1 => format!("DECLARE {cursor} CURSOR WITH HOLD FOR {query}"),
            2 => format!("DECLARE {cursor} SCROLL CURSOR FOR {query}"),
            3 => format!("DECLARE {cursor} BINARY NO SCROLL CURSOR WITHOUT HOLD FOR {query}"),
            4..=5 => format!("FETCH {} FROM {cursor}", self.rng.random_range(1..4)),
            6 => format!("MOVE 1 IN {cursor}"),
            7 => format!("CLOSE {cursor}"),
            _ => "CLOSE ALL".to_owned(),
        }
    }

    fn sequence(&mut self) -> String {
        let own = self.schema('a');
        match self.below(8) {
            0..=1 => format!("SELECT nextval('{own}.q')"),
            2..=3 => format!("SELECT currval('{own}.q')"),
            4 => "SELECT lastval()".to_owned(),
            5 => format!("SELECT setval('{own}.q', 40), currval('{own}.q')"),
            6 => format!("INSERT INTO {own}.log(note) VALUES ('s'); SELECT lastval()"),
            _ => "DISCARD SEQUENCES".to_owned(),
        }
    }

    fn prepared_by_sql(&mut self) -> String {
        // `s1` is also one that the protocol gives.
        let shared = if super::is_left_out("shared-names") {
            "p2"
        } else {
            "s1"
        };
        let name = self.pick(&["p1", "p2", shared]);
        match self.below(10) {
            0 => format!(
                "PREPARE {name} AS {}",
                self.pick(super::settings::CONSTANTS)
            ),
            1 => format!("PREPARE {name}(text) AS SELECT set_config('app.two', $1, false)"),
            2 => {
                let table = self.table();
                format!("PREPARE {name}(int) AS SELECT v FROM {table} WHERE id = $1")
            }
            3..=4 => format!("EXECUTE {name}"),
            5..=6 => format!("EXECUTE {name}('{}')", self.rng.random_range(1..5)),
            7 => format!("DEALLOCATE {name}"),
            8 => format!("DEALLOCATE PREPARE {name}"),
            _ if super::is_left_out("shared-names") => "DEALLOCATE p1".to_owned(),
            _ => "DEALLOCATE ALL".to_owned(),
        }
    }

    fn discard(&mut self) -> String {
        // What is said in the head of `grammar` about statements that are analysed again.
        let plans = if self.paths {
            "DISCARD PLANS"
        } else {
            "DISCARD SEQUENCES"
        };
        // The group of the direct connection, whose session this is not.
        let all = if self.roles {
            "RESET ALL"
        } else {
            "DISCARD ALL"
        };
        let authorization = if self.roles {
            "RESET ROLE"
        } else {
            "SET SESSION AUTHORIZATION DEFAULT"
        };
        let temporary = if self.paths { "DISCARD TEMP" } else { all };
        self.pick(&[
            all,
            all,
            plans,
            temporary,
            "DISCARD SEQUENCES",
            authorization,
        ])
        .to_owned()
    }

    fn role(&mut self) -> String {
        self.pick(&[
            "SET ROLE NONE",
            "SET ROLE tenantry_admin",
            "RESET ROLE",
            "SET LOCAL ROLE NONE",
            "SET ROLE tenantry_owner",
            "SELECT set_config('role', 'none', false)",
            "SELECT current_user",
            "SHOW role",
        ])
        .to_owned()
    }

    pub(super) fn temporary(&mut self) -> String {
        let name = self.pick(&["tmp1", "tmp2"]);
        match self.below(20) {
            0 => format!("CREATE TEMP TABLE {name}(a int, b text)"),
            1 => format!(
                "CREATE TEMPORARY TABLE IF NOT EXISTS {name} AS SELECT 1 AS a, 'x'::text AS b"
            ),
            2 => format!("CREATE TEMP TABLE {name}(a int) ON COMMIT DROP"),
            3 => format!("CREATE TEMP TABLE {name}(a int) ON COMMIT DELETE ROWS"),
            4 => format!("SELECT 5 AS a INTO TEMP {name}"),
            5 => format!("CREATE TABLE pg_temp.{name}(a int)"),
            6 => format!("INSERT INTO {name}(a) VALUES ({})", self.below(9)),
            7 => format!("SELECT a FROM {name} ORDER BY a"),
            8 => format!("DROP TABLE IF EXISTS {name}"),
            9 => format!("DROP TABLE pg_temp.{name}"),
            10 => format!("CREATE TEMP VIEW v_{name} AS SELECT 1 AS a"),
            11 => format!("CREATE TEMP SEQUENCE q_{name}"),
            12 => format!("SELECT nextval('q_{name}')"),
            13 => "CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql AS 'SELECT 42'".to_owned(),
            14 => "SELECT pg_temp.f()".to_owned(),
            15 => "CREATE TYPE pg_temp.kind AS ENUM ('a', 'b')".to_owned(),
            16 => self
                .pick(&[
                    "CREATE COLLATION pg_temp.kollation FROM \"C\"",
                    "CREATE TEXT SEARCH CONFIGURATION pg_temp.suche (COPY = pg_catalog.simple)",
                    "CREATE DOMAIN pg_temp.dom AS int CHECK (VALUE > 0)",
                    "SELECT to_tsvector('pg_temp.suche', 'a b')",
                    "SELECT 'a' COLLATE pg_temp.kollation",
                ])
                .to_owned(),
            17 => format!("DO $$ BEGIN EXECUTE 'CREATE TEMP TABLE {name}(a int)'; END $$"),
            18 => "SET search_path = pg_temp".to_owned(),
            _ => format!("DROP VIEW IF EXISTS v_{name}"),
        }
    }
}
