//! What changes settings in words that say so, and statements whose answers depend on settings.

use rand::RngExt as _;

use super::Maker;

/// Values as `set_config` takes them.
const SETTINGS: &[(&str, &[&str])] = &[
    (
        "TimeZone",
        &[
            "UTC",
            "America/New_York",
            "Asia/Kolkata",
            "<+05>-05",
            "Nowhere/Land",
        ],
    ),
    (
        "DateStyle",
        &[
            "ISO, MDY", "SQL, DMY", "German", "Postgres", "DMY", "YMD", "iso", "bogus",
        ],
    ),
    (
        "IntervalStyle",
        &["postgres", "sql_standard", "iso_8601", "postgres_verbose"],
    ),
    ("extra_float_digits", &["0", "3", "-7", "1", "99"]),
    ("bytea_output", &["hex", "escape"]),
    ("standard_conforming_strings", &["on", "off"]),
    ("backslash_quote", &["on", "off", "safe_encoding"]),
    ("escape_string_warning", &["on", "off"]),
    (
        "client_encoding",
        &["UTF8", "LATIN1", "WIN1252", "EUC_JP", "UTF8"],
    ),
    (
        "client_min_messages",
        &["notice", "warning", "error", "log"],
    ),
    ("work_mem", &["3MB", "5120", "777kB", "4MB", "-1", "many"]),
    (
        "application_name",
        &["one", "it's two", "three \\ \"3\"", ""],
    ),
    ("statement_timeout", &["61s", "70000", "0"]),
    ("lock_timeout", &["45s", "50000"]),
    ("idle_in_transaction_session_timeout", &["50s", "0"]),
    (
        "default_transaction_isolation",
        &["serializable", "repeatable read", "read committed"],
    ),
    ("default_transaction_read_only", &["on", "off", "off"]),
    ("default_transaction_deferrable", &["on", "off"]),
    ("transform_null_equals", &["on", "off"]),
    ("array_nulls", &["on", "off"]),
    ("xmloption", &["document", "content"]),
    ("quote_all_identifiers", &["on", "off"]),
    ("enable_seqscan", &["on", "off"]),
    (
        "plan_cache_mode",
        &["auto", "force_generic_plan", "force_custom_plan"],
    ),
    (
        "default_text_search_config",
        &[
            "pg_catalog.german",
            "pg_catalog.simple",
            "pg_catalog.english",
        ],
    ),
    ("synchronous_commit", &["on", "off", "local"]),
    ("check_function_bodies", &["on", "off"]),
    ("row_security", &["on", "on"]),
    ("default_tablespace", &["", "pg_default", "no_such_space"]),
    ("default_table_access_method", &["heap", "none"]),
    ("app.one", &["x", "it's", "", "\\", "zwölf", "a'b\\'c"]),
    ("app.two", &["1", "2", "3"]),
    ("App.Mixed", &["M", "N"]),
    ("deep.er.name", &["d", "e"]),
    ("session_replication_role", &["replica"]),
    ("log_statement", &["all"]),
    ("no_such_setting", &["1"]),
];

/// Names that SHOW and RESET are tried with.
const SHOWN: &[&str] = &[
    "TimeZone",
    "DateStyle",
    "IntervalStyle",
    "extra_float_digits",
    "bytea_output",
    "work_mem",
    "client_encoding",
    "application_name",
    "standard_conforming_strings",
    "statement_timeout",
    "lock_timeout",
    "client_min_messages",
    "default_transaction_isolation",
    "default_transaction_read_only",
    "search_path",
    "array_nulls",
    "xmloption",
    "default_text_search_config",
    "plan_cache_mode",
    "is_superuser",
    "server_version",
    "transaction_isolation",
    "transaction_read_only",
    "no_such_setting",
];

/// Statements whose constants are evaluated when they are analysed, under the settings of then.
pub(super) const CONSTANTS: &[&str] = &[
    "SELECT timestamptz '2020-06-01 12:00', timestamptz '2020-01-01 00:00+00'",
    "SELECT date '01/02/2003', date '2003-02-01'::text",
    "SELECT interval '1-2 3 4:05', interval '1 day 02:03:04'::text",
    "SELECT 'a\\nb', length('a\\nb')",
    "SELECT '\\x41ff'::bytea, encode('\\x41ff'::bytea, 'hex')",
    "SELECT 0.1::float8 * 3, 1/3.0::float8, 100000000000000000000::float4",
    "SELECT '{1,NULL,3}'::text[], array_length('{1,NULL,3}'::text[], 1)",
    "SELECT (SELECT 1 WHERE NULL = NULL), 1 = NULL",
    "SELECT xml 'plain text'::text",
    "SELECT 'gr\u{fc}\u{df}e', length('gr\u{fc}\u{df}e')",
    "SELECT to_tsvector('running dogs laufende'), current_setting('TimeZone')",
    "SELECT timestamp '2020-06-01 12:00' AT TIME ZONE 'UTC', '12:00+00'::timetz",
];

fn literal(value: &str) -> String {
    // As it reads with either meaning of a backslash.
    let escape = if value.contains('\\') { "E" } else { "" };
    format!(
        "{escape}'{}'",
        value.replace('\\', "\\\\").replace('\'', "''")
    )
}

impl Maker {
    /// A setting and a value, valid or not.
    pub(super) fn setting(&mut self) -> (String, String) {
        if self.paths && self.chance(25) {
            return ("search_path".to_owned(), self.path());
        }
        loop {
            let (name, values) = self.pick(SETTINGS);
            let value = self.pick(values);
            if !super::is_left_out(name) {
                return (name.to_owned(), value.to_owned());
            }
        }
    }

    fn path(&mut self) -> String {
        let (a, b) = (self.schema('a'), self.schema('b'));
        self.pick(&[
            a.clone(),
            b.clone(),
            format!("{a}, {b}"),
            format!("\"{b}\", \"$user\", {a}"),
            format!("pg_temp, {a}"),
            format!("{a}, pg_catalog"),
            "pg_catalog".to_owned(),
            "\"\"".to_owned(),
            format!("\"No Such\", {b}"),
        ])
    }

    pub(super) fn startup(&mut self) -> Vec<(String, String)> {
        let mut list = Vec::new();
        if self.chance(50) || super::is_left_out("startup") {
            return list;
        }
        for _ in 0..self.rng.random_range(1..4) {
            let (name, value) = self.pick(&[
                ("TimeZone", "Asia/Tokyo"),
                ("DateStyle", "German"),
                ("DateStyle", "SQL, DMY"),
                ("IntervalStyle", "iso_8601"),
                ("client_encoding", "LATIN1"),
                ("client_encoding", "UTF8"),
                ("extra_float_digits", "2"),
                ("bytea_output", "escape"),
                ("work_mem", "2MB"),
                ("app.one", "begun"),
                ("standard_conforming_strings", "off"),
                ("default_transaction_isolation", "serializable"),
                ("client_min_messages", "warning"),
            ]);
            list.retain(|(own, _): &(String, String)| own != name);
            list.push((name.to_owned(), value.to_owned()));
        }
        list
    }

    /// Changes settings in words that say so.
    pub(super) fn change(&mut self) -> String {
        let (name, value) = self.setting();
        let quoted = if name.contains(char::is_uppercase) && name.contains('.') {
            name.split('.')
                .map(|part| format!("\"{part}\""))
                .collect::<Vec<_>>()
                .join(".")
        } else {
            name.clone()
        };
        // A list of names is one name when it is one literal.
        let value = if name == "search_path" && !value.is_empty() && self.chance(85) {
            value
        } else {
            literal(&value)
        };
        let to = self.pick(&["TO", "=", "to", " = "]);
        match self.weighed(&[30, 6, 10, 4, 8, 3, 16, 8, 5, 6]) {
            0 => format!("SET {quoted} {to} {value}"),
            1 => format!("SET SESSION {quoted} {to} {value}"),
            2 => format!("SET LOCAL {quoted} {to} {value}"),
            3 => format!("SET {quoted} TO DEFAULT"),
            4 => format!("RESET {quoted}"),
            5 => "RESET ALL".to_owned(),
            6 => format!("SELECT {}", self.set_config()),
            7 => self.set_config_in_disguise(),
            8 => self
                .pick(&[
                    "SET TIME ZONE -3.5",
                    "SET TIME ZONE 'Europe/Berlin'",
                    "SET TIME ZONE LOCAL",
                    "SET TIME ZONE DEFAULT",
                    "SET TIME ZONE INTERVAL '+02:30' HOUR TO MINUTE",
                    "SET LOCAL TIME ZONE 'Asia/Tokyo'",
                    "SET NAMES 'LATIN1'",
                    "SET NAMES 'UTF8'",
                    "SET NAMES",
                    "SET NAMES DEFAULT",
                    "SET DateStyle TO SQL, DMY",
                    "SET DateStyle = ISO",
                    "SET XML OPTION DOCUMENT",
                    "SET SESSION TIME ZONE 7",
                    "set U&\"work!005fmem\" UESCAPE '!' to '6MB'",
                    "SET \"work_mem\" TO '6500kB'",
                    "SET extra_float_digits = -2",
                    "SET extra_float_digits TO +2",
                    "SET statement_timeout TO 1e5",
                    "SET work_mem TO 0x2000",
                    "SET jit = OFF",
                    "SET enable_sort TO true",
                    "SET bytea_output = ESCAPE",
                    "SET client_min_messages TO warning",
                    "SET application_name TO $$dollar$$",
                    "SET application_name TO bare_word",
                    "SET application_name = U&'\\00fc'",
                ])
                .to_owned(),
            _ => {
                let other = self.set_config();
                format!("SELECT {}, {other}", self.set_config())
            }
        }
    }

    /// A call of it, as an expression.
    pub(super) fn set_config(&mut self) -> String {
        let (name, value) = self.setting();
        let (name, value) = (literal(&name), literal(&value));
        let function = self.pick(&[
            "set_config",
            "pg_catalog.set_config",
            "\"set_config\"",
            "SET_CONFIG",
        ]);
        let is_local = self.pick(&["false", "false", "true", "'f'", "1 > 2", "NULL"]);
        match self.below(6) {
            0 => format!(
                "{function}(is_local => {is_local}, setting_name => {name}, new_value => {value})"
            ),
            1 => format!("{function}(substr('x' || {name}, 2), {value}, {is_local})"),
            _ => format!("{function}({name}, {value}, {is_local})"),
        }
    }

    fn set_config_in_disguise(&mut self) -> String {
        let call = self.set_config();
        match self.below(17) {
            0 => format!("SELECT 1 WHERE {call} IS NOT NULL"),
            1 => format!("WITH x AS (SELECT {call} AS a) SELECT a FROM x"),
            2 => format!("VALUES ({call})"),
            3 => format!(
                "SELECT * FROM {}",
                call.replace("is_local =>", "is_local :=")
            ),
            4 => format!("SELECT CASE WHEN false THEN {call} ELSE 'not called' END"),
            5 => format!("SELECT g, {call} FROM generate_series(1, 2) g"),
            6 => format!("DO $do$ BEGIN PERFORM {call}; END $do$"),
            7 => format!("DO $do$ BEGIN EXECUTE $x$SELECT {call}$x$; END $do$"),
            8 => "UPDATE pg_settings SET setting = '2222kB' WHERE name = 'work_mem'".to_owned(),
            9 => format!(
                "EXPLAIN (ANALYZE, COSTS off, TIMING off, SUMMARY off, BUFFERS off) SELECT {call}"
            ),
            10 => format!("EXPLAIN (COSTS off) SELECT {call}"),
            11 => format!("SELECT query_to_xml($q$SELECT {call}$q$, true, true, '')"),
            12 => format!("SELECT coalesce(current_setting('app.none', true), {call})"),
            13 => format!("SELECT * FROM (SELECT {call} AS a OFFSET 0) s"),
            14 => format!("SELECT {call} UNION ALL SELECT 'second'"),
            15 => format!(
                "DO $do$ BEGIN PERFORM {call}; RAISE EXCEPTION 'and back'; EXCEPTION WHEN raise_exception THEN NULL; END $do$"
            ),
            _ => {
                let name = self.pick(&["work_mem", "app.two", "application_name"]);
                format!("DO $do$ BEGIN SET {name} TO '12345'; END $do$")
            }
        }
    }

    /// Shows what is in force.
    pub(super) fn probe(&mut self) -> String {
        match self.weighed(&[8, 8, 8, 2, 3, 3]) {
            0 => format!("SHOW {}", self.pick(SHOWN)),
            1 => self.pick(CONSTANTS).to_owned(),
            2 => {
                let name = self.pick(&[
                    "app.one",
                    "app.two",
                    "App.Mixed",
                    "deep.er.name",
                    "work_mem",
                    "TimeZone",
                ]);
                format!("SELECT nullif(current_setting('{name}', true), '')")
            }
            // Who that is depends on how the direct connection logs in.
            3 if self.roles => "SHOW SESSION AUTHORIZATION".to_owned(),
            3 => "SHOW is_superuser".to_owned(),
            4 => "SELECT current_schemas(false), current_user".to_owned(),
            _ => super::session::HELD[self.below(super::session::HELD.len())].to_owned(),
        }
    }
}
