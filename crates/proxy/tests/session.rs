//! Sessions through a proxy to a real PostgreSQL.

#![allow(clippy::unwrap_used, reason = "a test")]

mod kit;

use std::{pin::pin, time::Duration};

use futures_util::{SinkExt, TryStreamExt};
use kit::{
    Stack, code,
    raw::{self, Raw},
    wait_until,
};
use model::{
    Role,
    route::{Access, NodeAddress, NodeTarget, NodeTls},
};
use proxy::Snapshot;
use wire::{
    message::{Kind, build},
    startup::Protocol,
};

fn snapshot(stack: &Stack) -> Snapshot {
    tokio::task::block_in_place(|| {
        tokio::runtime::Handle::current().block_on(stack.proxy().snapshot())
    })
}

fn log_in(stack: &Stack, tenant: &kit::Tenant, protocol: Protocol) -> (Raw, Vec<raw::Message>) {
    let mut raw = Raw::tls(stack.port, &stack.certificate);
    let user = tenant.login(Role::Admin).to_string();
    let parameters = [("user", user.as_str()), ("database", "postgres")];
    let seen = raw.log_in(protocol, &parameters, &tenant.password);
    assert_eq!(raw::code_of(&seen), "");
    (raw, seen)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_reaches_its_own_database_and_role() {
    for workers in [1, 3] {
        let stack = Stack::start(|config| config.workers = workers).await;
        for tenant in [stack.tenant(), stack.tenant(), stack.tenant()] {
            for role in Role::ALL {
                let client = stack.connect(&tenant, role).await;
                let sql = "SELECT current_database()::text, session_user::text, current_user::text";
                let row = client.query_one(sql, &[]).await.unwrap();
                assert_eq!(row.get::<_, String>(0), tenant.pid.database());
                assert_eq!(row.get::<_, String>(1), role.login(&tenant.pid));
                assert_eq!(row.get::<_, String>(2), role.group().as_str());
            }
        }
        assert_eq!(snapshot(&stack).mismatches, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_said_too_early_moves_home_with_it() {
    let stack = Stack::start(|config| {
        config.workers = 3;
        config.require_tls = false;
    })
    .await;
    // Large enough to be partly unread when the client moves.
    let comment = "x".repeat(100_000);
    for encrypted in [true, false, true, false, true, false] {
        let tenant = stack.tenant();
        let mut raw = match encrypted {
            true => Raw::tls(stack.port, &stack.certificate),
            false => Raw::plain(stack.port),
        };
        build::query("SELECT 'early'", &mut raw.eager);
        build::query(&format!("SELECT 'late' /* {comment} */"), &mut raw.eager);
        let user = tenant.login(Role::Admin).to_string();
        let parameters = [("user", user.as_str()), ("database", "postgres")];
        let seen = raw.log_in(Protocol::V3_0, &parameters, &tenant.password);
        assert_eq!(raw::code_of(&seen), "");
        assert_eq!(raw::value(&raw.until(b'Z')), "early");
        assert_eq!(raw::value(&raw.until(b'Z')), "late");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn psql_works() {
    let stack = Stack::start(|_| {}).await;
    let tenant = stack.tenant();
    let output = std::process::Command::new("psql")
        .env("PGPASSWORD", &tenant.password)
        .arg(format!(
            "host=127.0.0.1 port={} user={} dbname=postgres sslmode=require",
            stack.port,
            tenant.login(Role::Admin)
        ))
        .args([
            "-XAtq",
            "-c",
            "CREATE TABLE t (a int)",
            "-c",
            "INSERT INTO t VALUES (1), (2)",
        ])
        .args(["-c", "\\copy t TO STDOUT", "-c", "SELECT sum(a) FROM t"])
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "1\n2\n3\n",
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_opened_late_reset_and_used_again() {
    let stack = Stack::start(|_| {}).await;
    let tenant = stack.tenant();
    stack.keep_servers(&tenant);
    let first = stack.connect(&tenant, Role::Admin).await;
    first
        .batch_execute(
            "CREATE TABLE kept (a int); CREATE TEMP TABLE gone (a int); SET work_mem = '5MB';
             LISTEN x; PREPARE p AS SELECT 1; SELECT pg_advisory_lock(7)",
        )
        .await
        .unwrap();
    first
        .batch_execute("BEGIN; INSERT INTO kept SELECT 1; SET ROLE NONE")
        .await
        .unwrap();
    let pid = |row: tokio_postgres::Row| row.get::<_, i32>(0);
    let before = pid(first
        .query_one("SELECT pg_backend_pid()", &[])
        .await
        .unwrap());
    drop(first);
    wait_until("it was given back", || snapshot(&stack).servers_idle == 1);

    let second = stack.connect(&tenant, Role::Admin).await;
    let after = pid(second
        .query_one("SELECT pg_backend_pid()", &[])
        .await
        .unwrap());
    assert_eq!(before, after);
    let row = second
        .query_one(
            "SELECT current_setting('work_mem'), current_user::text,
                 (SELECT count(*) FROM kept), to_regclass('gone') IS NULL,
                 (SELECT count(*) FROM pg_prepared_statements WHERE name = 'p'),
                 (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'),
                 (SELECT count(*) FROM pg_listening_channels())",
            &[],
        )
        .await
        .unwrap();
    assert_eq!(row.get::<_, String>(0), "4MB");
    assert_eq!(row.get::<_, String>(1), "tenantry_admin");
    assert_eq!(row.get::<_, i64>(2), 0);
    assert!(row.get::<_, bool>(3));
    for column in 4..7 {
        assert_eq!(row.get::<_, i64>(column), 0, "{column}");
    }
    // A second client of the role has no server until it asks something.
    let third = stack.connect(&tenant, Role::Admin).await;
    assert_eq!(stack.backends(), 1);
    third.simple_query("SELECT 1").await.unwrap();
    assert_eq!(stack.backends(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_servers_are_closed() {
    let stack = Stack::start(|config| {
        config.limits.server_idle_max = Duration::from_millis(100);
        config.limits.tenant_idle_max = Duration::from_millis(200);
    })
    .await;
    let tenant = stack.tenant();
    let client = stack.connect(&tenant, Role::Admin).await;
    client.simple_query("SELECT 1").await.unwrap();
    drop(client);
    wait_until("nothing is left", || {
        let now = snapshot(&stack);
        now.nodes[0].servers == 0 && now.tenants.is_empty()
    });
    assert_eq!(stack.backends(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn copy_both_ways_and_failing() {
    let stack = Stack::start(|_| {}).await;
    let tenant = stack.tenant();
    let client = stack.connect(&tenant, Role::Admin).await;
    client
        .batch_execute("CREATE TABLE t (a int, b text)")
        .await
        .unwrap();
    let sink = client
        .copy_in::<_, bytes::Bytes>("COPY t FROM STDIN")
        .await
        .unwrap();
    let mut sink = pin!(sink);
    for chunk in 0..200 {
        let rows: String = (0..1000)
            .map(|i| format!("{}\ttext\n", chunk * 1000 + i))
            .collect();
        sink.send(rows.into()).await.unwrap();
    }
    assert_eq!(sink.finish().await.unwrap(), 200_000);

    let copied = client.copy_out("COPY t TO STDOUT").await.unwrap();
    let copied: Vec<bytes::Bytes> = copied.try_collect().await.unwrap();
    assert_eq!(copied.len(), 200_000);

    // The server refuses in the middle.
    let sink = client
        .copy_in::<_, bytes::Bytes>("COPY t FROM STDIN")
        .await
        .unwrap();
    let mut sink = pin!(sink);
    let _ = sink.send("x\ty\n".repeat(1000).into()).await;
    assert_eq!(code(&sink.finish().await.unwrap_err()), "22P02");
    // The client gives up.
    {
        let sink = client
            .copy_in::<_, bytes::Bytes>("COPY t FROM STDIN")
            .await
            .unwrap();
        let mut sink = pin!(sink);
        sink.send("1\ty\n".repeat(1000).into()).await.unwrap();
    }
    let row = client
        .query_one("SELECT count(*) FROM t", &[])
        .await
        .unwrap();
    assert_eq!(row.get::<_, i64>(0), 200_000);
    assert_eq!(snapshot(&stack).mismatches, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelines_errors_in_them_and_calls() {
    let stack = Stack::start(|_| {}).await;
    let tenant = stack.tenant();
    let client = stack.connect(&tenant, Role::Admin).await;
    let many = (0..500).map(|i| {
        let client = &client;
        async move {
            if i % 50 == 7 {
                assert_eq!(
                    code(&client.query_one("SELECT 1/0", &[]).await.unwrap_err()),
                    "22012"
                );
                return;
            }
            let row = client.query_one("SELECT $1::int", &[&i]).await.unwrap();
            assert_eq!(row.get::<_, i32>(0), i);
        }
    });
    futures_util::future::join_all(many).await;

    let (mut raw, _) = log_in(&stack, &tenant, Protocol::V3_0);
    // One flight: an error skips to its own Sync, and a simple query behind it is answered.
    let mut out = Vec::new();
    build::parse(b"", b"SELEC 1", &[], &mut out);
    build::bind_nothing(b"", b"", &mut out);
    build::execute(b"", 0, &mut out);
    build::query("SELECT 'skipped'", &mut out);
    build::sync(&mut out);
    build::parse(b"s", b"SELECT 'second'", &[], &mut out);
    build::describe(Kind::Statement, b"s", &mut out);
    build::bind_nothing(b"", b"s", &mut out);
    build::execute(b"", 0, &mut out);
    build::sync(&mut out);
    build::query("SELECT 'third'", &mut out);
    raw.send(&out);
    let kinds = |messages: Vec<raw::Message>| -> String {
        messages.iter().map(|(kind, _)| char::from(*kind)).collect()
    };
    assert_eq!(kinds(raw.until(b'Z')), "EZ");
    assert_eq!(kinds(raw.until(b'Z')), "1tT2DCZ");
    assert_eq!(kinds(raw.until(b'Z')), "TDCZ");
    // Byte by byte.
    let mut out = Vec::new();
    build::parse(b"", b"SELECT 1", &[], &mut out);
    build::describe(Kind::Statement, b"", &mut out);
    build::flush(&mut out);
    for byte in out {
        raw.send(&[byte]);
    }
    assert_eq!(kinds(raw.until(b'T')), "1tT");
    let mut out = Vec::new();
    build::sync(&mut out);
    raw.send(&out);
    assert_eq!(kinds(raw.until(b'Z')), "Z");
    // A message that does not exist.
    raw.send(&[b'!', 0, 0, 0, 4]);
    assert_eq!(raw::code_of(&raw.rest()), "08P01");
    assert_eq!(snapshot(&stack).mismatches, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn cancel_reaches_what_runs_and_nothing_else() {
    let stack = Stack::start(|config| config.workers = 2).await;
    let tenant = stack.tenant();
    for protocol in [Protocol::V3_0, Protocol::V3_2] {
        let (mut raw, seen) = log_in(&stack, &tenant, protocol);
        let key = raw::cancel_key(&seen);
        let mut request = Vec::new();
        build::cancel_request(&key, &mut request);
        let cancel = |request: &[u8], encrypted: bool| {
            let mut raw = match encrypted {
                true => Raw::tls(stack.port, &stack.certificate),
                false => Raw::plain(stack.port),
            };
            raw.send(request);
            assert!(raw.rest().is_empty());
        };
        // Nothing runs: nothing happens, also to the next statement.
        assert_eq!(raw::value(&raw.query("SELECT 1")), "1");
        cancel(&request, true);
        assert_eq!(raw::value(&raw.query("SELECT 2 FROM pg_sleep(0.1)")), "2");
        // A wrong key.
        let mut wrong = request.clone();
        *wrong.last_mut().unwrap() ^= 1;
        for encrypted in [true, false] {
            let mut query = Vec::new();
            build::query("SELECT pg_sleep(30)", &mut query);
            raw.send(&query);
            wait_until("it runs", || {
                let sql = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
                stack.postgres.sql("postgres", sql) == "1"
            });
            cancel(&wrong, encrypted);
            cancel(&request, encrypted);
            assert_eq!(raw::code_of(&raw.until(b'Z')), "57014");
        }
        assert_eq!(raw::value(&raw.query("SELECT 3")), "3");
        drop(raw);
        cancel(&request, false);
    }
}

/// With PostgreSQL 18: keys of 32 bytes towards the server.
#[tokio::test(flavor = "multi_thread")]
async fn cancel_reaches_servers_with_long_keys() {
    let stack = Stack::start_on(kit::postgres_18(), |_| {}).await;
    let tenant = stack.tenant();
    let client = stack.connect(&tenant, Role::Admin).await;
    let row = client.query_one("SHOW server_version_num", &[]).await;
    let version: String = row.unwrap().get(0);
    assert!(version.starts_with("18"), "{version}");
    for _ in 0..2 {
        let cancel = client.cancel_token();
        let (slept, _) =
            futures_util::future::join(client.simple_query("SELECT pg_sleep(30)"), async {
                wait_until("it runs", || {
                    let sql = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
                    stack.postgres.sql("postgres", sql) == "1"
                });
                cancel.cancel_query(stack.tls()).await.unwrap();
            })
            .await;
        assert_eq!(code(&slept.unwrap_err()), "57014");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_changes_loses_the_sessions_it_must() {
    let stack = Stack::start(|_| {}).await;
    let tenant = stack.tenant();
    let other = stack.tenant();
    let bystander = stack.connect(&other, Role::Admin).await;
    let reader = stack.connect(&tenant, Role::Read).await;
    let ends_with = async |change: &dyn Fn(&mut model::route::Route), text: &str| {
        let (mut raw, _) = log_in(&stack, &tenant, Protocol::V3_0);
        raw.query("SELECT 1");
        stack.set_route(&tenant, Role::Admin, change);
        // Nothing else would end it: its client says nothing.
        stack.announce(&tenant);
        let rest = raw.rest();
        assert_eq!(raw::code_of(&rest), "57P01");
        assert!(String::from_utf8_lossy(&rest[0].1).contains(text), "{text}");
    };
    // set_route makes another credential every time.
    ends_with(&|_| {}, "changed or revoked").await;
    for (access, text) in [
        (Access::Suspended, "suspended or deleted"),
        (Access::Expired, "has expired"),
    ] {
        ends_with(&|route| route.access = access, text).await;
        stack.set_route(&tenant, Role::Admin, |_| {});
        stack.announce(&tenant);
        wait_until("it is open again", || {
            tokio::task::block_in_place(|| {
                tokio::runtime::Handle::current()
                    .block_on(stack.connect_with(&stack.config(&tenant, Role::Admin)))
            })
            .is_ok()
        });
    }

    // Limits alone end nothing.
    let kept = stack.connect(&tenant, Role::Admin).await;
    {
        let mut table = stack.table.lock().unwrap();
        let login = tenant.login(Role::Admin);
        let resolved = table.routes.get_mut(&login).unwrap();
        let old = &resolved.route;
        resolved.route = std::sync::Arc::new(model::route::Route {
            login: old.login,
            clients_max: old.clients_max,
            tenant: old.tenant.clone(),
            role: old.role,
            access: old.access,
            expires_in: old.expires_in,
            candidates: old.candidates.clone(),
            server: old.server.clone(),
            limits: model::Limits {
                server_connections_max: 3,
                client_connections_max: 9,
                ..model::Limits::default()
            },
            storage: old.storage,
            pool_mode: old.pool_mode,
        });
    }
    stack.announce(&tenant);
    kept.simple_query("SELECT 1").await.unwrap();
    bystander.simple_query("SELECT 1").await.unwrap();
    reader.simple_query("SELECT 1").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_crashes_ends_only_who_used_it() {
    let mut stack = Stack::start(|_| {}).await;
    let tenant = stack.tenant();
    let (mut busy, _) = log_in(&stack, &tenant, Protocol::V3_0);
    let (mut idle, _) = log_in(&stack, &tenant, Protocol::V3_0);
    busy.query("BEGIN");
    let mut query = Vec::new();
    build::query("SELECT pg_sleep(30)", &mut query);
    busy.send(&query);
    stack.postgres.crash();
    let rest = busy.rest();
    let code = raw::code_of(&rest);
    assert!(["57P01", "57P02"].contains(&code.as_str()), "{code}");
    // While it is away, whoever asks something is told so.
    let (mut unlucky, _) = log_in(&stack, &tenant, Protocol::V3_0);
    let mut query = Vec::new();
    build::query("SELECT 1", &mut query);
    unlucky.send(&query);
    assert_eq!(raw::code_of(&unlucky.rest()), "08006");
    stack.postgres.restart();
    assert_eq!(raw::value(&idle.query("SELECT 4")), "4");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_server_password_is_reported_and_named_to_nobody() {
    let stack = Stack::start(|_| {}).await;
    let tenant = stack.tenant();
    let login = Role::Admin.login(&tenant.pid);
    let sql = format!("ALTER ROLE {login} PASSWORD 'other'");
    stack.postgres.sql("postgres", &sql);
    let error = stack
        .connect_with(&stack.config(&tenant, Role::Admin))
        .await
        .err()
        .unwrap();
    assert_eq!(code(&error), "57P03");
    assert!(!format!("{error:?}").contains(tenant.pid.as_str()));
    let reported = || {
        stack.table.lock().unwrap().reports.iter().any(|report| {
            matches!(report, model::route::Report::ServerLoginRefused { tenant: id, .. }
                if *id == tenant.id)
        })
    };
    wait_until("it is reported", reported);
}

#[tokio::test(flavor = "multi_thread")]
async fn draining_lets_transactions_finish() {
    let mut stack = Stack::start(|_| {}).await;
    let tenant = stack.tenant();
    let (mut idle, _) = log_in(&stack, &tenant, Protocol::V3_0);
    let (mut working, _) = log_in(&stack, &tenant, Protocol::V3_0);
    let (mut stuck, _) = log_in(&stack, &tenant, Protocol::V3_0);
    working.query("BEGIN");
    stuck.query("BEGIN");
    let proxy = stack.proxy.take().unwrap();
    let drained = tokio::spawn(proxy.drain(Duration::from_secs(3)));
    assert_eq!(raw::code_of(&idle.rest()), "57P01");
    working.query("CREATE TABLE finished (a int)");
    let mut commit = Vec::new();
    build::query("COMMIT", &mut commit);
    working.send(&commit);
    let rest = working.rest();
    assert_eq!(rest[0].0, b'C');
    assert_eq!(raw::code_of(&rest), "57P01");
    assert_eq!(raw::code_of(&stuck.rest()), "57P01");
    drained.await.unwrap();
    assert_eq!(stack.backends(), 0);
    assert_eq!(
        stack
            .postgres
            .sql(&tenant.pid.database(), "SELECT count(*) FROM finished"),
        "0"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_door_needs_a_secret_but_no_tls() {
    let stack = Stack::start(|_| {}).await;
    let tenant = stack.tenant();
    let config = stack.config(&tenant, Role::Write);
    let client = through_the_door(&stack, config, None).await.unwrap();
    let row = client
        .query_one("SELECT current_user::text", &[])
        .await
        .unwrap();
    assert_eq!(row.get::<_, String>(0), "tenantry_write");
}

async fn through_the_door(
    stack: &Stack,
    mut config: tokio_postgres::Config,
    from: Option<&str>,
) -> Result<tokio_postgres::Client, String> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    theirs.set_nonblocking(true).unwrap();
    let visit = model::route::Visit {
        stream: theirs,
        from: from.map(|address| address.parse().unwrap()),
    };
    stack.proxy().door().send(visit).await.unwrap();
    let stream = tokio::net::UnixStream::from_std(ours).unwrap();
    config.ssl_mode(tokio_postgres::config::SslMode::Disable);
    let connected = config.connect_raw(stream, tokio_postgres::NoTls).await;
    let (client, connection) = connected.map_err(|error| {
        let error = error.as_db_error().expect("the proxy says why");
        format!("{} {}", error.code().code(), error.message())
    })?;
    tokio::spawn(connection);
    Ok(client)
}

/// Whoever guesses over HTTP is banned where PostgreSQL clients of the same address are, and the
/// other way round.
#[tokio::test(flavor = "multi_thread")]
async fn who_comes_over_http_is_counted_at_its_own_address() {
    let stack = Stack::start(|config| config.limits.address_failures_max = 3).await;
    let tenant = stack.tenant();
    let right = stack.config(&tenant, Role::Write);
    let mut wrong = right.clone();
    wrong.password("wrong");
    let (here, elsewhere) = (Some("127.0.0.1:5"), Some("192.0.2.7:5"));
    for _ in 0..3 {
        let refused = through_the_door(&stack, wrong.clone(), here).await;
        assert!(refused.unwrap_err().starts_with("28P01"));
    }
    let banned = through_the_door(&stack, right.clone(), here).await;
    assert!(banned.unwrap_err().contains("retry in"));
    // A PostgreSQL client from the same address.
    let error = stack.connect_with(&right).await.expect_err("it is banned");
    let error = error.as_db_error().expect("the proxy says why").message();
    assert!(error.contains("retry in"), "{error}");
    through_the_door(&stack, right.clone(), elsewhere)
        .await
        .expect("nobody failed there");

    // The operator's console is no place for HTTP, whatever the password.
    let mut console = right.clone();
    console.user(proxy::OPERATOR);
    let refused = through_the_door(&stack, console, elsewhere).await;
    assert!(refused.unwrap_err().starts_with("28000"));

    // Addresses that the tenant allows.
    let allowed = |limits: &mut model::Limits| {
        limits.addresses = Some(std::sync::Arc::from(["198.51.100.0/24".parse().unwrap()]));
    };
    stack.set_route(&tenant, Role::Write, |route| allowed(&mut route.limits));
    stack.announce(&tenant);
    let refused = through_the_door(&stack, right.clone(), elsewhere).await;
    match refused {
        Err(error) => assert!(error.starts_with("28000"), "{error}"),
        // Logged in, and told with the first answer.
        Ok(client) => {
            let error = client.simple_query("SELECT 1").await.unwrap_err();
            assert!(error.is_closed() || error.code().unwrap().code() == "28000");
        }
    }
    through_the_door(&stack, right, Some("198.51.100.9:5"))
        .await
        .expect("it is one of the allowed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_over_tcp_is_checked_as_its_tls_mode_says() {
    let mut stack = Stack::start(|_| {}).await;
    let tenants: Vec<_> = (0..4).map(|_| stack.tenant()).collect();
    let identity = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (certificate, key) = (identity.cert.pem(), identity.signing_key.serialize_pem());
    let port = stack.postgres.listen_with_tls(&certificate, &key);
    let roots = stack.postgres.directory().join("roots.pem");
    std::fs::write(&roots, &certificate).unwrap();
    let stranger = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let other = stack.postgres.directory().join("other.pem");
    std::fs::write(&other, stranger.cert.pem()).unwrap();

    let mut number = 0;
    for (host, tls, works) in [
        ("127.0.0.1", NodeTls::Disable, false),
        ("127.0.0.1", NodeTls::Require, true),
        ("127.0.0.1", NodeTls::VerifyCa(Some(roots.clone())), true),
        ("127.0.0.1", NodeTls::VerifyCa(Some(other.clone())), false),
        ("127.0.0.1", NodeTls::VerifyFull(Some(roots.clone())), false),
        ("localhost", NodeTls::VerifyFull(Some(roots.clone())), true),
        ("localhost", NodeTls::VerifyFull(Some(other)), false),
    ] {
        number += 1;
        let name = format!("{host} {tls:?}");
        stack.node = std::sync::Arc::new(NodeTarget {
            name: format!("node {number}"),
            address: NodeAddress::Tcp {
                host: host.to_owned(),
                port,
                tls,
            },
            server_connections_max: 5,
        });
        let tenant = &tenants[number % tenants.len()];
        stack.set_route(tenant, Role::Admin, |_| {});
        stack.announce(tenant);
        let config = stack.config(tenant, Role::Admin);
        let client = stack.connect_with(&config).await;
        assert_eq!(client.is_ok(), works, "{name}");
        let Ok(client) = client else { continue };
        let row = client
            .query_one("SELECT pg_backend_pid()", &[])
            .await
            .unwrap();
        let pid: i32 = row.get(0);
        let sql = format!("SELECT ssl FROM pg_stat_ssl WHERE pid = {pid}");
        assert_eq!(stack.postgres.sql("postgres", &sql), "t", "{name}");
        // A cancel goes the same way.
        let cancel = client.cancel_token();
        let query = tokio::spawn(async move { client.simple_query("SELECT pg_sleep(30)").await });
        wait_until("it runs", || {
            let sql = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
            stack.postgres.sql("postgres", sql) == "1"
        });
        cancel.cancel_query(stack.tls()).await.unwrap();
        assert_eq!(code(&query.await.unwrap().unwrap_err()), "57014", "{name}");
    }
}
