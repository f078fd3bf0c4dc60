//! The checker: clean after ordinary work, and one planted defect of every kind.

#![allow(clippy::unwrap_used, reason = "a test")]

mod kit;

use kit::{MAJORS, STOP, Scratch, create, login, start, superuser};
use model::{Pid, Role};
use node::{
    Node,
    check::{Expected, ExpectedState, FindingKind as Kind},
};

fn open(pids: &[&Pid]) -> Vec<Expected> {
    let one = |pid: &&Pid| Expected {
        pid: (*pid).clone(),
        state: ExpectedState::Open,
    };
    pids.iter().map(one).collect()
}

async fn kinds(node: &Node, expected: &[Expected]) -> Vec<Kind> {
    let mut kinds: Vec<Kind> = node
        .check(expected)
        .await
        .unwrap()
        .into_iter()
        .map(|finding| finding.kind)
        .collect();
    kinds.dedup();
    kinds
}

/// Breaks one thing, wants exactly that kind found, and mends it. `{a}` is a tenant's database.
async fn plant(node: &Node, a: &Pid, kind: Kind, place: &str, defect: &str, mend: &str) {
    let name = a.database();
    let text = |sql: &str| sql.replace("{a}", &name);
    let platform = superuser(node, &text(place)).await;
    let run = async |sql: &str| {
        for statement in sql.split(';').filter(|part| !part.trim().is_empty()) {
            platform
                .batch_execute(&text(statement))
                .await
                .unwrap_or_else(|e| panic!("{statement}: {e:?}"));
        }
    };
    run(defect).await;
    let found = node.check(&open(&[a])).await.unwrap();
    assert!(
        !found.is_empty() && found.iter().all(|finding| finding.kind == kind),
        "{kind:?} planted by {defect}, found {found:#?}"
    );
    run(mend).await;
}

/// Until a new session goes by what the files say now.
async fn reload(platform: &tokio_postgres::Client) {
    const LOADED: &str = "SELECT extract(epoch FROM pg_conf_load_time())::float8";
    let loaded = async || -> f64 { platform.query_one(LOADED, &[]).await.unwrap().get(0) };
    let before = loaded().await;
    platform
        .batch_execute("SELECT pg_reload_conf()")
        .await
        .unwrap();
    kit::until("the files are loaded", async || loaded().await > before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_planted_defect_is_found() {
    for major in MAJORS {
        let dir = Scratch::new();
        let server = start(major, &dir).await;
        let node = server.node();
        let a = create(&node).await;
        let admin = login(&node, &a, Role::Admin).await.unwrap();
        admin
            .batch_execute(
                "CREATE TABLE t (v text); CREATE SCHEMA s; CREATE FUNCTION s.f() RETURNS int \
                 LANGUAGE sql AS 'SELECT 1'; CREATE TYPE e AS ENUM ('x'); SELECT lo_create(0); \
                 SELECT lo_create(5); GRANT ALL ON t TO PUBLIC; GRANT ALL ON SCHEMA public TO PUBLIC; \
                 GRANT ALL ON FUNCTION s.f() TO PUBLIC; GRANT UPDATE (v) ON t TO tenantry_read; \
                 GRANT ALL ON LARGE OBJECT 5 TO PUBLIC; \
                 ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO PUBLIC; \
                 CREATE EXTENSION citext; CREATE EXTENSION hstore SCHEMA s",
            )
            .await
            .unwrap();
        drop(admin);
        let clean = node.check(&open(&[&a])).await.unwrap();
        assert!(clean.is_empty(), "{clean:#?}");
        let one = node.check_tenant(&open(&[&a])[0]).await.unwrap();
        assert!(one.is_empty(), "{one:#?}");

        for (kind, place, defect, mend) in [
            (
                Kind::PublicAccess,
                "postgres",
                "GRANT CONNECT ON DATABASE {a} TO PUBLIC",
                "REVOKE CONNECT ON DATABASE {a} FROM PUBLIC",
            ),
            (
                Kind::PublicAccess,
                "postgres",
                "GRANT CONNECT ON DATABASE postgres TO PUBLIC",
                "REVOKE CONNECT ON DATABASE postgres FROM PUBLIC",
            ),
            (
                Kind::PublicAccess,
                "postgres",
                "GRANT TEMPORARY ON DATABASE tenantry TO PUBLIC",
                "REVOKE TEMPORARY ON DATABASE tenantry FROM PUBLIC",
            ),
            (
                Kind::DatabaseAcl,
                "postgres",
                "GRANT CONNECT ON DATABASE {a} TO tenantry_admin",
                "REVOKE CONNECT ON DATABASE {a} FROM tenantry_admin",
            ),
            (
                Kind::DatabaseAcl,
                "postgres",
                "GRANT CONNECT ON DATABASE tenantry TO {a}_admin",
                "REVOKE CONNECT ON DATABASE tenantry FROM {a}_admin",
            ),
            (
                Kind::DatabaseAcl,
                "postgres",
                "REVOKE CONNECT ON DATABASE {a} FROM {a}_read",
                "GRANT CONNECT ON DATABASE {a} TO {a}_read",
            ),
            (
                Kind::DatabaseOwner,
                "postgres",
                "CREATE ROLE other; ALTER DATABASE {a} OWNER TO other",
                "ALTER DATABASE {a} OWNER TO tenantry; DROP ROLE other",
            ),
            (
                Kind::RoleAttributes,
                "postgres",
                "ALTER ROLE {a}_read CREATEDB",
                "ALTER ROLE {a}_read NOCREATEDB",
            ),
            (
                Kind::RoleAttributes,
                "postgres",
                "ALTER ROLE tenantry_write BYPASSRLS",
                "ALTER ROLE tenantry_write NOBYPASSRLS",
            ),
            (
                Kind::RoleAttributes,
                "postgres",
                "ALTER ROLE {a}_write CONNECTION LIMIT 1",
                "ALTER ROLE {a}_write CONNECTION LIMIT -1",
            ),
            (
                Kind::RolePassword,
                "postgres",
                "ALTER ROLE tenantry_read PASSWORD 'x'",
                "ALTER ROLE tenantry_read PASSWORD NULL",
            ),
            (
                Kind::Membership,
                "postgres",
                "GRANT tenantry_owner TO {a}_read",
                "REVOKE tenantry_owner FROM {a}_read",
            ),
            (
                Kind::Membership,
                "postgres",
                "GRANT pg_read_all_data TO tenantry_read",
                "REVOKE pg_read_all_data FROM tenantry_read",
            ),
            (
                Kind::StoredSetting,
                "postgres",
                "ALTER ROLE {a}_read SET work_mem = '1MB'",
                "ALTER ROLE {a}_read RESET ALL",
            ),
            (
                Kind::StoredSetting,
                "postgres",
                "ALTER ROLE tenantry_admin IN DATABASE {a} SET work_mem = '1MB'",
                "ALTER ROLE tenantry_admin IN DATABASE {a} RESET ALL",
            ),
            (
                Kind::StoredSetting,
                "postgres",
                "ALTER DATABASE {a} SET search_path = evil",
                "ALTER DATABASE {a} RESET ALL",
            ),
            (
                Kind::Template,
                "postgres",
                "ALTER DATABASE tenantry_template ALLOW_CONNECTIONS true",
                "ALTER DATABASE tenantry_template ALLOW_CONNECTIONS false",
            ),
            (
                Kind::WrongAccess,
                "postgres",
                "ALTER DATABASE {a} CONNECTION LIMIT 0",
                "ALTER DATABASE {a} CONNECTION LIMIT -1",
            ),
            (
                Kind::OrphanDatabase,
                "postgres",
                "CREATE DATABASE x_orphanorphan TEMPLATE tenantry_template CONNECTION LIMIT 0",
                "DROP DATABASE x_orphanorphan",
            ),
            (
                Kind::OrphanRole,
                "postgres",
                "CREATE ROLE x_orphanorphan_dump",
                "DROP ROLE x_orphanorphan_dump",
            ),
            (
                Kind::PrivilegedOwner,
                "{a}",
                "CREATE TABLE public.planted ()",
                "DROP TABLE public.planted",
            ),
            (
                Kind::PrivilegedOwner,
                "{a}",
                "CREATE FUNCTION public.planted() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1'",
                "DROP FUNCTION public.planted",
            ),
            (
                Kind::NamedOwner,
                "{a}",
                "ALTER TABLE public.t OWNER TO {a}_admin",
                "ALTER TABLE public.t OWNER TO tenantry_admin",
            ),
            (
                Kind::FunctionAcl,
                "{a}",
                "GRANT EXECUTE ON FUNCTION pg_advisory_lock(bigint) TO PUBLIC",
                "REVOKE EXECUTE ON FUNCTION pg_advisory_lock(bigint) FROM PUBLIC",
            ),
            (
                Kind::FunctionAcl,
                "{a}",
                "GRANT EXECUTE ON FUNCTION pg_read_file(text) TO tenantry_admin",
                "REVOKE EXECUTE ON FUNCTION pg_read_file(text) FROM tenantry_admin",
            ),
            (
                Kind::FunctionAcl,
                "{a}",
                "GRANT EXECUTE ON FUNCTION lo_export(oid, text) TO PUBLIC",
                "REVOKE EXECUTE ON FUNCTION lo_export(oid, text) FROM PUBLIC",
            ),
            (
                Kind::FunctionAcl,
                "{a}",
                "GRANT EXECUTE ON FUNCTION txid_current() TO {a}_read",
                "REVOKE EXECUTE ON FUNCTION txid_current() FROM {a}_read",
            ),
            (
                Kind::FunctionAcl,
                "{a}",
                "GRANT EXECUTE ON FUNCTION txid_current() TO tenantry_write WITH GRANT OPTION",
                "REVOKE GRANT OPTION FOR EXECUTE ON FUNCTION txid_current() FROM tenantry_write",
            ),
            (
                Kind::FunctionAcl,
                "{a}",
                "REVOKE EXECUTE ON FUNCTION lo_put(oid, bigint, bytea) FROM tenantry_write",
                "GRANT EXECUTE ON FUNCTION lo_put(oid, bigint, bytea) TO tenantry_write",
            ),
            (
                Kind::FunctionAcl,
                "{a}",
                "GRANT EXECUTE ON FUNCTION public.citextin(cstring) TO tenantry_read",
                "REVOKE EXECUTE ON FUNCTION public.citextin(cstring) FROM tenantry_read",
            ),
            (
                Kind::CatalogAcl,
                "{a}",
                "GRANT SELECT ON pg_authid TO tenantry_admin",
                "REVOKE SELECT ON pg_authid FROM tenantry_admin",
            ),
            (
                Kind::CatalogAcl,
                "{a}",
                "GRANT SELECT (rolpassword) ON pg_authid TO PUBLIC",
                "REVOKE SELECT (rolpassword) ON pg_authid FROM PUBLIC",
            ),
            (
                Kind::CatalogAcl,
                "{a}",
                "GRANT SELECT ON pg_statistic TO pg_read_all_data",
                "REVOKE SELECT ON pg_statistic FROM pg_read_all_data",
            ),
            (
                Kind::CatalogAcl,
                "{a}",
                "GRANT UPDATE ON information_schema.sql_features TO {a}_write",
                "REVOKE UPDATE ON information_schema.sql_features FROM {a}_write",
            ),
            (
                Kind::CatalogAcl,
                "{a}",
                "GRANT CREATE ON SCHEMA pg_catalog TO tenantry_owner",
                "REVOKE CREATE ON SCHEMA pg_catalog FROM tenantry_owner",
            ),
            (
                Kind::CatalogAcl,
                "{a}",
                "GRANT USAGE ON LANGUAGE sql TO tenantry_read",
                "REVOKE USAGE ON LANGUAGE sql FROM tenantry_read",
            ),
            (
                Kind::FunctionAcl,
                "{a}",
                "ALTER FUNCTION pg_stat_file(text) OWNER TO tenantry_admin",
                "ALTER FUNCTION pg_stat_file(text) OWNER TO tenantry",
            ),
            (
                Kind::CatalogAcl,
                "{a}",
                "ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC",
                "ALTER DEFAULT PRIVILEGES REVOKE SELECT ON TABLES FROM PUBLIC",
            ),
            (
                Kind::CatalogAcl,
                "postgres",
                "GRANT SET ON PARAMETER session_preload_libraries TO tenantry_admin",
                "REVOKE SET ON PARAMETER session_preload_libraries FROM tenantry_admin",
            ),
            (
                Kind::CatalogAcl,
                "postgres",
                "GRANT CREATE ON TABLESPACE pg_default TO PUBLIC",
                "REVOKE CREATE ON TABLESPACE pg_default FROM PUBLIC",
            ),
            (
                Kind::PublicAccess,
                "postgres",
                "CREATE DATABASE others",
                "DROP DATABASE others",
            ),
            (
                Kind::Extension,
                "{a}",
                "CREATE EXTENSION dblink; ALTER EXTENSION dblink SET SCHEMA public",
                "DROP EXTENSION dblink",
            ),
        ] {
            // An extension that the platform installs also belongs to it.
            if kind == Kind::Extension {
                superuser(&node, &a.database())
                    .await
                    .batch_execute(defect.split(';').next().unwrap())
                    .await
                    .unwrap();
                assert!(kinds(&node, &open(&[&a])).await.contains(&kind));
                superuser(&node, &a.database())
                    .await
                    .batch_execute(mend)
                    .await
                    .unwrap();
            } else {
                plant(&node, &a, kind, place, defect, mend).await;
            }
        }

        // All are mended: none hid that another was not found.
        let left = node.check(&open(&[&a])).await.unwrap();
        assert!(left.is_empty(), "after mending: {left:#?}");

        // What an operator gives to a role of its own is no tenant's.
        superuser(&node, &a.database())
            .await
            .batch_execute(
                "CREATE ROLE watcher; GRANT EXECUTE ON FUNCTION pg_read_file(text) TO watcher; \
                 GRANT SET ON PARAMETER work_mem TO watcher; REVOKE SELECT ON pg_user FROM PUBLIC",
            )
            .await
            .unwrap();

        // Missing pieces.
        let gone = kit::pid();
        assert_eq!(
            kinds(&node, &open(&[&a, &gone])).await,
            [Kind::MissingDatabase]
        );
        node.create_logins(&gone).await.unwrap();
        assert_eq!(
            kinds(&node, &open(&[&a, &gone])).await,
            [Kind::MissingDatabase]
        );
        superuser(&node, "postgres")
            .await
            .batch_execute(&format!("DROP ROLE {}_write", gone.database()))
            .await
            .unwrap();
        assert_eq!(
            kinds(&node, &open(&[&a, &gone])).await,
            [Kind::MissingDatabase, Kind::MissingRole]
        );
        let changing = [
            open(&[&a]),
            vec![Expected {
                pid: gone,
                state: ExpectedState::Changing,
            }],
        ];
        assert_eq!(kinds(&node, &changing.concat()).await, []);
        let closed = [Expected {
            pid: a.clone(),
            state: ExpectedState::Closed,
        }];
        assert!(kinds(&node, &closed).await.contains(&Kind::WrongAccess));

        // The configuration. Whether the server has loaded it, or only would at its next start.
        let conf = dir.path().join("data/postgres/conf");
        let settings = async |want: &[&str]| {
            let found = node.check(&changing.concat()).await.unwrap();
            let mut names: Vec<&str> = found.iter().map(|one| &*one.subject).collect();
            names.dedup();
            assert!(
                found.iter().all(|one| one.kind == Kind::Configuration) && names == want,
                "{want:?}: {found:#?}"
            );
        };
        for (defect, is_loaded, want) in [
            ("temp_file_limit = -1", true, &["temp_file_limit"][..]),
            ("autovacuum = off", true, &["autovacuum"]),
            ("log_statement = 'all'", true, &["log_statement"]),
            (
                "log_min_duration_statement = 0",
                false,
                &["log_min_duration_statement"],
            ),
            (
                "session_preload_libraries = 'auto_explain'",
                false,
                &["session_preload_libraries"],
            ),
            ("max_connections = 999", true, &["max_connections"]),
            ("listen_addresses = '*'", false, &["listen_addresses"]),
            ("random_page_cost = 1.1", true, &[]),
        ] {
            let platform = superuser(&node, "postgres").await;
            let run = async |sql: &str| platform.batch_execute(sql).await.unwrap();
            run(&format!("ALTER SYSTEM SET {defect}")).await;
            if is_loaded {
                reload(&platform).await;
            }
            settings(want).await;
            run("ALTER SYSTEM RESET ALL").await;
            reload(&platform).await;
            settings(&[]).await;
        }
        let platform = superuser(&node, "postgres").await;
        let written = std::fs::read_to_string(conf.join("tenantry.conf")).unwrap();
        std::fs::write(
            conf.join("tenantry.conf"),
            written.replace("temp_file_limit = '4096MB'", "temp_file_limit = -1"),
        )
        .unwrap();
        reload(&platform).await;
        let file = conf.join("tenantry.conf").display().to_string();
        settings(&[&file, "temp_file_limit"]).await;
        // Put back, and not loaded.
        std::fs::write(conf.join("tenantry.conf"), written).unwrap();
        settings(&["temp_file_limit"]).await;
        reload(&platform).await;
        std::fs::write(
            conf.join("operator.conf"),
            "work_mem = '9MB'\nlisten_addresses = '*'\n",
        )
        .unwrap();
        reload(&platform).await;
        settings(&[]).await;

        let hba = conf.join("pg_hba.conf");
        let text = std::fs::read_to_string(&hba).unwrap();
        std::fs::write(&hba, format!("local all all trust\n{text}")).unwrap();
        assert!(
            kinds(&node, &changing.concat())
                .await
                .contains(&Kind::Configuration)
        );
        server.stop(STOP).await;
    }
}

/// A wall that has a hole is a finding before the database behind it is opened again.
#[tokio::test(flavor = "multi_thread")]
async fn the_walls_around_closed_databases_are_checked() {
    for major in MAJORS {
        let dir = Scratch::new();
        let server = start(major, &dir).await;
        let node = server.node();
        let (closed, fresh) = (create(&node).await, kit::pid());
        node.close(&closed).await.unwrap();
        // Made and never opened, as a warm pool's next entry is.
        node.create_logins(&fresh).await.unwrap();
        node.create_database(&fresh, &node::Template::Empty)
            .await
            .unwrap();
        let expected = |state| {
            let of = |pid: &Pid, state| Expected {
                pid: pid.clone(),
                state,
            };
            [of(&closed, state), of(&fresh, ExpectedState::Changing)]
        };
        let platform = superuser(&node, "postgres").await;
        for state in [ExpectedState::Closed, ExpectedState::Changing] {
            assert_eq!(node.check(&expected(state)).await.unwrap(), []);
            for pid in [&closed, &fresh] {
                for (grantee, kind) in [
                    ("PUBLIC", Kind::PublicAccess),
                    ("tenantry_read", Kind::DatabaseAcl),
                ] {
                    let name = pid.database();
                    let run = async |sql: &str| platform.batch_execute(sql).await.unwrap();
                    // As if it had been opened: a database without any grant written down has the default.
                    run(&format!("REVOKE ALL ON DATABASE {name} FROM PUBLIC")).await;
                    run(&format!("GRANT CONNECT ON DATABASE {name} TO {grantee}")).await;
                    assert_eq!(
                        kinds(&node, &expected(state)).await,
                        [kind],
                        "{name} {state:?}"
                    );
                    run(&format!("REVOKE CONNECT ON DATABASE {name} FROM {grantee}")).await;
                    assert_eq!(node.check(&expected(state)).await.unwrap(), []);
                }
            }
        }
        server.stop(STOP).await;
    }
}

/// What a tenant can do to its own roles keeps the proxy out, or others in, until it is repaired.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_tenant_changes_on_its_roles_is_repaired() {
    for major in MAJORS {
        let dir = Scratch::new();
        let server = start(major, &dir).await;
        let node = server.node();
        let (a, b) = (create(&node).await, create(&node).await);
        let admin = login(&node, &a, Role::Admin).await.unwrap();
        let own = Role::Admin.login(&a);
        admin.batch_execute("SET ROLE NONE").await.unwrap();
        for sql in [
            format!("ALTER ROLE {own} PASSWORD 'mine now'"),
            format!("ALTER ROLE {own} SET search_path = evil"),
            format!(
                "ALTER ROLE {own} IN DATABASE {} SET work_mem = '64kB'",
                a.database()
            ),
        ] {
            admin.batch_execute(&sql).await.unwrap();
        }
        // A session cannot grant its own login away; the repair undoes it all the same.
        let grant = format!("GRANT {own} TO {}", Role::Admin.login(&b));
        let error = admin.batch_execute(&grant).await.unwrap_err();
        assert_eq!(kit::code(&error), "42501");
        superuser(&node, "postgres")
            .await
            .batch_execute(&grant)
            .await
            .unwrap();
        login(&node, &a, Role::Admin)
            .await
            .expect_err("the password is another");
        let want = [Kind::RolePassword, Kind::Membership, Kind::StoredSetting];
        let mut found = kinds(&node, &open(&[&a, &b])).await;
        found.sort_unstable();
        assert_eq!(found, want);

        let found = node.repair_logins(&a).await.unwrap();
        assert!(
            found
                .iter()
                .any(|finding| finding.kind == Kind::RolePassword),
            "{found:?}"
        );
        login(&node, &a, Role::Admin).await.unwrap();
        let clean = node.check(&open(&[&a, &b])).await.unwrap();
        assert!(clean.is_empty(), "{clean:#?}");
        assert_eq!(node.repair_logins(&a).await.unwrap(), []);

        let admin = login(&node, &b, Role::Admin).await.unwrap();
        let _ = admin
            .batch_execute("ALTER ROLE tenantry_admin PASSWORD 'x'")
            .await;
        let _ = admin
            .batch_execute("ALTER ROLE tenantry_admin SET work_mem = '64kB'")
            .await;
        node.repair_shared().await.unwrap();
        assert_eq!(node.repair_shared().await.unwrap(), []);
        server.stop(STOP).await;
    }
}
