use super::*;

const SAFE: Encoding = Encoding::AsciiSafe;

fn said(text: &str) -> String {
    let found = tables(text.as_bytes(), true, SAFE);
    let mut all: Vec<_> = found
        .named
        .iter()
        .map(|(name, access)| format!("{} {name}", access.as_str()))
        .collect();
    if !found.is_all {
        all.push("…".to_owned());
    }
    all.join(", ")
}

/// Columns: a text, and what it does with which tables.
#[test]
fn tables_are_found_where_they_can_stand() {
    let mut wrong = Vec::new();
    for (text, want) in [
        ("SELECT 1", ""),
        ("", ""),
        ("SELECT * FROM t", "read t"),
        (
            "select a, b from S.\"T x\" x, only u as y where x.id = y.id",
            "read s.\"T x\", read u",
        ),
        (
            "SELECT * FROM a JOIN b ON a.i = b.i LEFT JOIN c USING (i), d",
            "read a, read b, read c, read d",
        ),
        (
            "SELECT * FROM (a JOIN b ON true), c",
            "read a, read b, read c",
        ),
        (
            "SELECT * FROM (SELECT * FROM a, b) x, c",
            "read a, read b, read c",
        ),
        (
            "SELECT (SELECT max(i) FROM a), b FROM c WHERE i IN (SELECT i FROM d)",
            "read a, read c, read d",
        ),
        (
            "SELECT extract(year FROM x), trim(both 'x' FROM y) FROM t",
            "read t",
        ),
        (
            "SELECT a IS NOT DISTINCT FROM b, c IS DISTINCT FROM d FROM t",
            "read t",
        ),
        (
            "SELECT * FROM generate_series(1, 2) g, unnest(ARRAY[1]) WITH ORDINALITY u, t",
            "read t",
        ),
        ("SELECT * FROM ROWS FROM (f(1), g(2)) x, t", "read t"),
        (
            "SELECT * FROM t, LATERAL (SELECT * FROM u WHERE u.i = t.i) x",
            "read t, read u",
        ),
        ("SELECT * FROM t FOR UPDATE OF t", "read t"),
        (
            "SELECT 'FROM x', \"from\" FROM t -- FROM y\n/* FROM z */",
            "read t",
        ),
        (
            "(SELECT * FROM a) UNION (SELECT * FROM b)",
            "read a, read b",
        ),
        (
            "SELECT * FROM a UNION ALL SELECT * FROM b ORDER BY 1, 2",
            "read a, read b",
        ),
        ("SELECT a INTO TEMP n FROM t", "ddl n, read t"),
        ("TABLE t", "read t"),
        ("VALUES (1), (2)", ""),
        (
            "WITH x AS (SELECT * FROM a) SELECT * FROM x, b",
            "read a, read b",
        ),
        ("WITH t AS (SELECT * FROM t) SELECT * FROM t", "read t"),
        (
            "WITH x (i, j) AS MATERIALIZED (SELECT 1, 2), y AS (SELECT * FROM x JOIN a ON true) SELECT * FROM y",
            "read a",
        ),
        (
            "WITH RECURSIVE x AS (SELECT 1 UNION SELECT * FROM x, a) SELECT * FROM x",
            "read a",
        ),
        (
            "WITH gone AS (DELETE FROM a RETURNING *) INSERT INTO b SELECT * FROM gone",
            "write a, write b",
        ),
        (
            "SELECT * FROM (WITH x AS (SELECT 1) SELECT * FROM x) y, x",
            "read x",
        ),
        (
            "INSERT INTO t (a, b) VALUES (1, (SELECT i FROM u))",
            "write t, read u",
        ),
        (
            "INSERT INTO t SELECT * FROM u ON CONFLICT (a) DO UPDATE SET b = 1",
            "write t, read u",
        ),
        ("INSERT INTO s.t DEFAULT VALUES", "write s.t"),
        (
            "UPDATE ONLY t SET a = 1 FROM u, v WHERE t.i = u.i",
            "write t, read u, read v",
        ),
        (
            "UPDATE t SET a = (SELECT b FROM u) WHERE c",
            "write t, read u",
        ),
        (
            "DELETE FROM t USING u, v WHERE true RETURNING *",
            "write t, read u, read v",
        ),
        (
            "MERGE INTO t USING u ON t.i = u.i WHEN MATCHED THEN UPDATE SET a = 1 WHEN NOT MATCHED THEN INSERT VALUES (1)",
            "write t, read u",
        ),
        ("TRUNCATE TABLE a, ONLY b CASCADE", "write a, write b"),
        ("COPY t (a, b) FROM STDIN", "write t"),
        ("COPY s.t TO STDOUT", "read s.t"),
        ("COPY (SELECT * FROM t) TO STDOUT", "read t"),
        ("LOCK TABLE t IN SHARE MODE", "read t"),
        ("VACUUM (FULL, ANALYZE) a, b", "ddl a, ddl b"),
        ("ANALYZE t (a)", "ddl t"),
        ("REINDEX TABLE t", "ddl t"),
        ("REFRESH MATERIALIZED VIEW CONCURRENTLY m", "ddl m"),
        (
            "CREATE TABLE IF NOT EXISTS t (i int REFERENCES u (i), j text DEFAULT 'x')",
            "ddl t, read u",
        ),
        ("CREATE TABLE t AS SELECT * FROM u", "ddl t, read u"),
        (
            "CREATE OR REPLACE VIEW v AS SELECT * FROM t",
            "ddl v, read t",
        ),
        ("CREATE UNIQUE INDEX CONCURRENTLY i ON t (a)", "ddl t"),
        ("ALTER TABLE ONLY s.t ADD COLUMN a int", "ddl s.t"),
        ("DROP TABLE IF EXISTS a, b CASCADE", "ddl a, ddl b"),
        ("GRANT SELECT ON t, u TO public", "ddl t, ddl u"),
        ("COMMENT ON TABLE t IS 'x'", "ddl t"),
        ("EXPLAIN (ANALYZE, COSTS OFF) SELECT * FROM t", "read t"),
        ("PREPARE p (int) AS SELECT * FROM t WHERE i = $1", "read t"),
        ("DECLARE c CURSOR FOR SELECT * FROM t", "read t"),
        (
            "BEGIN; SELECT * FROM a; UPDATE a SET b = 1; COMMIT",
            "read a, write a",
        ),
        ("SET search_path = a, b", ""),
        ("EXECUTE p", "…"),
        ("DO $$ BEGIN DELETE FROM t; END $$", "…"),
        ("CALL p()", "…"),
        (
            "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1 FROM t'",
            "…",
        ),
        ("SELECT * FROM 'unterminated", "…"),
    ] {
        if said(text) != want {
            wrong.push(format!("{text}: {}", said(text)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_is_not_there_or_too_much_is_said_to_be() {
    assert!(!tables(b"SELECT * FROM t WHERE a IN (1,", false, SAFE).is_all);
    let many: Vec<_> = (0..20).map(|i| format!("t{i}")).collect();
    let found = tables(
        format!("SELECT * FROM {}", many.join(", ")).as_bytes(),
        true,
        SAFE,
    );
    assert_eq!((found.named.len(), found.is_all), (TABLES_MAX, false));
    let deep = format!("SELECT {}1{}", "(".repeat(100_000), ")".repeat(100_000));
    assert!(!tables(deep.as_bytes(), true, SAFE).is_all);
    assert!(!tables("SELECT 'ä' FROM t".as_bytes(), true, Encoding::Overlapping).is_all);
    let either = tables(br"SELECT '\' FROM secret', a FROM t", true, SAFE);
    assert_eq!((either.named.len(), either.is_all), (0, false));
}

proptest::proptest! {
    /// Whatever it is, nothing breaks, and no string constant is among the names.
    #[test]
    fn no_constant_is_a_table(words in proptest::collection::vec(
        proptest::sample::select(vec!["SELECT", "FROM", "(", ")", ",", "WITH", "x", "AS", "'secret'", "$$secret$$", "INSERT",
            "INTO", ";", ".", "UPDATE", "COPY", "CREATE", "TABLE", "ON", "\"q\"", "JOIN", "USING", "EXPLAIN", "e'secret'", "RECURSIVE"]),
        0..40))
    {
        let found = tables(words.join(" ").as_bytes(), true, SAFE);
        proptest::prop_assert!(found.named.iter().all(|(name, _)| !name.contains("secret")));
    }
}
