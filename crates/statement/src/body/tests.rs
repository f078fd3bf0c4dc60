use super::*;

#[track_caller]
fn harmless(language: &str, source: &str) {
    let body = read_body(language, source.as_bytes(), None);
    assert!(
        body_is_harmless(language, source.as_bytes(), None),
        "{source}: {:?}",
        body.effects
    );
}

#[track_caller]
fn harmful(language: &str, source: &str, effects: Effects) {
    let body = read_body(language, source.as_bytes(), None);
    assert!(
        body.effects.contains(effects),
        "{source}: {:?}",
        body.effects
    );
    assert!(
        !body_is_harmless(language, source.as_bytes(), None),
        "{source}"
    );
}

#[test]
fn ordinary_functions_are_harmless() {
    harmless("plpgsql", "BEGIN NEW.updated_at = now(); RETURN NEW; END");
    harmless(
        "plpgsql",
        "\n#variable_conflict use_column\n<<f>> DECLARE x int := 1; BEGIN\n
        SELECT count(*) INTO x FROM t WHERE a ~ '\\d+' AND b > x;
        UPDATE t SET a = x WHERE b = 1; INSERT INTO t VALUES (1) ON CONFLICT DO NOTHING;
        INSERT INTO t VALUES (1) ON CONFLICT (a) DO UPDATE SET b = 2;
        IF x > 1 THEN PERFORM other(x); ELSE RAISE NOTICE 'SET x = %', x; END IF;
        FOR r IN SELECT 1 LOOP UPDATE t SET b = r; END LOOP;
        OPEN c; CLOSE c; PERFORM pg_notify('a', 'b'); PERFORM pg_advisory_xact_lock(1);
        PERFORM set_config('app.user', x::text, true); SET LOCAL work_mem = '1MB';
        RETURN x; EXCEPTION WHEN OTHERS THEN NULL; END",
    );
    harmless(
        "sql",
        "SELECT $1 + 1; UPDATE t SET a = 1; INSERT INTO t SELECT 1",
    );
    harmless(
        "sql",
        "BEGIN ATOMIC\n SELECT CASE WHEN ($1 > 0) THEN 1 ELSE 2 END;\nEND",
    );
    harmless("sql", "RETURN (a + b)");
    harmless("internal", "aggregate_dummy");
}

#[test]
fn what_outlives_a_call_is_found_wherever_it_stands() {
    for (text, effects) in [
        ("SET work_mem = '1MB';", Effects::SETTINGS),
        ("RESET ALL;", Effects::SETTINGS),
        ("PERFORM set_config('a.b', '1', false);", Effects::SETTINGS),
        ("PERFORM set_config(x, '1', false);", Effects::UNNAMED),
        (
            "PERFORM pg_catalog . \"set_config\"('a', 'b', x);",
            Effects::SETTINGS,
        ),
        ("UPDATE pg_settings SET setting = 1;", Effects::SETTINGS),
        ("EXECUTE 'x';", Effects::RUNS),
        ("RETURN QUERY EXECUTE x;", Effects::UNNAMED),
        ("FOR r IN EXECUTE x LOOP NULL; END LOOP;", Effects::RUNS),
        ("OPEN c FOR EXECUTE x;", Effects::RUNS),
        ("CREATE TEMP TABLE t (a int);", Effects::TEMP),
        ("LISTEN a;", Effects::LISTEN),
        ("PERFORM pg_advisory_lock(1);", Effects::ADVISORY),
        ("x := pg_try_advisory_lock(1);", Effects::ADVISORY),
        ("PERFORM setseed(0.5);", Effects::SEED),
        ("SET LOCAL seed = 0.5;", Effects::SEED),
        ("LOAD 'auto_explain';", Effects::LOAD),
        ("SET ROLE a;", Effects::ROLE),
        ("PREPARE a AS SELECT 1;", Effects::PREPARE),
        ("DO $x$ BEGIN NULL; END $x$;", Effects::RUNS),
        (
            "PERFORM query_to_xml('SELECT 1', true, true, '');",
            Effects::RUNS,
        ),
    ] {
        for around in [
            format!("BEGIN {text} END"),
            format!("DECLARE x int; BEGIN IF a > b THEN {text} END IF; END"),
            format!("BEGIN IF a THEN NULL; ELSE {text} END IF; END"),
            format!("BEGIN LOOP {text} END LOOP; END"),
            format!("BEGIN <<l>> {text} END"),
            format!("BEGIN NULL; {text} END"),
            format!("BEGIN RAISE NOTICE '%', 'it''s'; {text} END"),
            format!("BEGIN NULL; EXCEPTION WHEN OTHERS THEN {text} END"),
            format!("BEGIN CASE a WHEN 1 THEN {text} END CASE; END"),
        ] {
            harmful("plpgsql", &around, effects);
        }
    }
    for (text, effects) in [
        ("SELECT set_config('a', 'b', false)", Effects::SETTINGS),
        ("SELECT 1; SET a.b = 1", Effects::SETTINGS),
        ("SELECT * INTO t FROM u", Effects::TEMP),
        (
            "BEGIN ATOMIC\n SELECT set_config('a'::text, 'b'::text, false);\nEND",
            Effects::SETTINGS,
        ),
        ("RETURN setseed(1)", Effects::SEED),
    ] {
        harmful("sql", text, effects);
    }
}

#[test]
fn a_body_that_cannot_be_read_for_certain_is_unknown() {
    // With standard_conforming_strings off, the constant goes on.
    harmful("plpgsql", "BEGIN x := 'a\\'; END", Effects::UNKNOWN);
    harmful("plpgsql", "BEGIN x := 'a", Effects::UNKNOWN);
    for language in ["plperl", "plpython3u", "plv8", "internal", "c", "SQL"] {
        harmful(language, "x", Effects::UNKNOWN);
    }
}

#[test]
fn libraries_are_judged_by_name() {
    let harmless = |symbol: &[u8], library| body_is_harmless("c", symbol, Some(library));
    assert!(harmless(b"similarity", "$libdir/pg_trgm"));
    assert!(!harmless(b"set_limit", "$libdir/pg_trgm"));
    assert!(harmless(b"vector_in", "$libdir/vector.so"));
    assert!(!harmless(b"crosstab", "$libdir/tablefunc"));
    assert!(!harmless(b"dblink_connect", "$libdir/dblink"));
    assert!(!harmless(b"similarity", "/home/me/pg_trgm"));
}

#[test]
fn names_of_custom_settings_are_collected() {
    let text = "BEGIN SET LOCAL App.User = 1; PERFORM set_config('app.tenant', x, true);
        RETURN current_setting('APP.role', true); END";
    let body = read_body("plpgsql", text.as_bytes(), None);
    assert_eq!(body.custom, ["app.user", "app.tenant", "app.role"]);
}
