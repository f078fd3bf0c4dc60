//! The operator's console: what it shows, what it does, and that nobody else gets in.

#![allow(clippy::unwrap_used, reason = "a test")]

mod kit;

use std::collections::BTreeMap;

use kit::{
    INSTALLATION_KEY, Stack, Tenant, code,
    raw::{Message, Raw, code_of, value},
    wait_until,
};
use model::{Role, route::Access};
use proxy::{Config, OPERATOR};
use tokio_postgres::{SimpleQueryMessage, config::SslMode};
use wire::{
    message::{Kind, build, parse},
    scram::{Keys, login_salt},
    startup::Protocol,
};

const SECRET: &str = "the-operators-own-secret";

fn with_operator(config: &mut Config) {
    let salt = login_salt(&INSTALLATION_KEY, OPERATOR);
    config.operator = Some(Keys::from_password(SECRET, &salt, config.scram_iterations));
}

async fn start() -> Stack {
    let stack = |config: &mut Config| {
        config.workers = 2;
        with_operator(config);
    };
    Stack::start(stack).await
}

fn config(stack: &Stack) -> tokio_postgres::Config {
    let mut config = tokio_postgres::Config::new();
    config
        .host("localhost")
        .hostaddr([127, 0, 0, 1].into())
        .port(stack.port)
        .user(OPERATOR)
        .password(SECRET)
        .dbname("tenantry")
        .ssl_mode(SslMode::Require);
    config
}

async fn console(stack: &Stack) -> tokio_postgres::Client {
    stack.connect_with(&config(stack)).await.unwrap()
}

type Row = BTreeMap<String, Option<String>>;

/// Rows of a command, by name of the column.
async fn show(client: &tokio_postgres::Client, command: &str) -> Vec<Row> {
    let messages = client.simple_query(command).await.unwrap();
    let rows = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => {
            let columns = row.columns().iter().enumerate();
            let of_column = |(at, column): (usize, &tokio_postgres::SimpleColumn)| {
                (column.name().to_owned(), row.get(at).map(str::to_owned))
            };
            Some(columns.map(of_column).collect())
        }
        _ => None,
    });
    rows.collect()
}

fn text<'a>(row: &'a Row, column: &str) -> &'a str {
    row[column].as_deref().unwrap()
}

fn number(row: &Row, column: &str) -> i64 {
    text(row, column).parse().unwrap()
}

/// The one row in which a column has this value.
#[track_caller]
fn the<'a>(rows: &'a [Row], column: &str, value: &str) -> &'a Row {
    let mut found = rows
        .iter()
        .filter(|row| row[column].as_deref() == Some(value));
    let one = found.next();
    assert!(
        found.next().is_none(),
        "several rows with {value}: {rows:?}"
    );
    one.unwrap_or_else(|| panic!("no row with {column} = {value}: {rows:?}"))
}

fn raw_console(stack: &Stack, database: &str, secret: &str) -> (Raw, Vec<Message>) {
    let parameters = [("user", OPERATOR), ("database", database)];
    let mut raw = Raw::tls(stack.port, &stack.certificate);
    let seen = raw.log_in(Protocol::V3_0, &parameters, secret);
    (raw, seen)
}

fn raw_tenant(stack: &Stack, tenant: &Tenant, database: &str, secret: &str) -> (Raw, Vec<Message>) {
    let user = tenant.login(Role::Write).to_string();
    let parameters = [("user", user.as_str()), ("database", database)];
    let mut raw = Raw::tls(stack.port, &stack.certificate);
    let seen = raw.log_in(Protocol::V3_0, &parameters, secret);
    (raw, seen)
}

#[tokio::test(flavor = "multi_thread")]
async fn it_shows_what_happens_on_all_workers() {
    let stack = start().await;
    // Enough that both workers are home to some.
    let tenants: Vec<Tenant> = (0..4).map(|_| stack.tenant()).collect();
    let mut clients = Vec::new();
    for tenant in &tenants {
        let client = stack.connect(tenant, Role::Write).await;
        client.batch_execute("SELECT 1; SELECT 2").await.unwrap();
        clients.push(client);
    }
    clients[0].batch_execute("BEGIN").await.unwrap();
    let console = console(&stack).await;
    assert_eq!(
        show(&console, "SHOW VERSION").await[0]["version"],
        Some(format!("Tenantry {}", env!("CARGO_PKG_VERSION")))
    );

    let rows = show(&console, "show clients;").await;
    assert_eq!(rows.len(), 4, "the console is no client of a database");
    let servers = show(&console, "SHOW SERVERS").await;
    for tenant in &tenants {
        let id = tenant.id.as_str();
        let client = the(&rows, "database", id);
        assert_eq!(text(client, "user"), tenant.login(Role::Write).to_string());
        assert_eq!(text(client, "addr"), "127.0.0.1");
        assert_eq!(text(client, "tls"), "TLSv1.3");
        assert!(text(client, "connect_time").ends_with(" UTC"));
        assert!(number(client, "statements") >= 2);
        let server = the(&servers, "tenant", id);
        assert_eq!(text(server, "database"), tenant.pid.database());
        assert_eq!(text(server, "user"), Role::Write.login(&tenant.pid));
    }
    let own = the(&servers, "tenant", tenants[0].id.as_str());
    assert_eq!(text(own, "state"), "active");
    // It is the process that really serves it.
    let process: i32 = clients[0]
        .query_one("SELECT pg_backend_pid()", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(number(own, "remote_pid"), i64::from(process));

    let pools = show(&console, "SHOW POOLS").await;
    let pool = the(&pools, "database", tenants[0].id.as_str());
    assert_eq!(
        (number(pool, "cl_active"), number(pool, "cl_waiting")),
        (1, 0)
    );
    assert_eq!((number(pool, "sv_active"), number(pool, "maxwait")), (1, 0));
    let totals = show(&console, "SHOW STATS_TOTALS").await;
    let stats = show(&console, "SHOW STATS").await;
    for tenant in &tenants {
        let own = the(&totals, "database", tenant.id.as_str());
        assert!(number(own, "query_count") >= 2 && number(own, "bytes_sent") > 0);
        let own = the(&stats, "database", tenant.id.as_str());
        assert!(number(own, "total_query_count") >= 2);
    }
    let databases = show(&console, "SHOW DATABASES").await;
    let own = the(&databases, "name", tenants[1].id.as_str());
    assert_eq!(number(own, "max_connections"), 12);
    assert_eq!(
        (
            number(own, "current_client_connections"),
            number(own, "paused")
        ),
        (1, 0)
    );
    let list = show(&console, "SHOW TENANTS").await;
    let own = the(&list, "tenant", tenants[1].id.as_str());
    assert_eq!(text(own, "placement"), tenants[1].pid.as_str());
    assert_eq!((number(own, "clients"), text(own, "state")), (1, "open"));
    let lists = show(&console, "SHOW LISTS").await;
    assert_eq!(number(the(&lists, "list", "databases"), "items"), 4);
    assert_eq!(number(the(&lists, "list", "used_clients"), "items"), 4);
    let settings = show(&console, "SHOW CONFIG").await;
    assert_eq!(
        text(the(&settings, "key", "max_client_conn"), "value"),
        "1000"
    );
    assert_eq!(text(the(&settings, "key", "workers"), "value"), "2");
    let help = show(&console, "SHOW HELP").await;
    for row in &help {
        let command = text(row, "command");
        if command.starts_with("SHOW ") {
            show(&console, command).await;
        }
    }

    // Prepared first, values in binary, as drivers do by themselves.
    let rows = console.query("SHOW POOLS", &[]).await.unwrap();
    let found = rows
        .iter()
        .find(|row| row.get::<_, &str>("database") == tenants[0].id.as_str());
    assert_eq!(found.unwrap().get::<_, i64>("sv_active"), 1);
    assert_eq!(rows.len(), 4);
}

/// Neither a tenant nor a guess; and who tries cannot tell the console from a database.
#[tokio::test(flavor = "multi_thread")]
async fn it_opens_to_the_operators_secret_alone() {
    let stack = start().await;
    let tenant = stack.tenant();
    let unknown = "zzzzzzzzzzzz.admin";
    let said = |user: &str, database: &str, secret: &str| {
        let mut raw = Raw::tls(stack.port, &stack.certificate);
        let parameters = [("user", user), ("database", database)];
        let mut seen = raw.log_in(Protocol::V3_0, &parameters, secret);
        assert!(raw.rest().is_empty());
        for (kind, body) in &mut seen {
            if *kind == b'R' && body.starts_with(&[0, 0, 0, 11]) {
                // Nonce and salt differ always; how long they are does not.
                *body = body.len().to_be_bytes().to_vec();
            }
            if *kind == b'E' {
                let text = String::from_utf8(body.clone()).unwrap();
                *body = text.replace(user, "<user>").into_bytes();
            }
        }
        seen
    };
    let guess = said(OPERATOR, "tenantry", "a guess");
    assert_eq!(code_of(&guess), "28P01");
    assert_eq!(guess, said(unknown, "tenantry", "a guess"));
    assert_eq!(guess, said(unknown, "postgres", SECRET));
    assert_eq!(guess, said(OPERATOR, "postgres", &tenant.password));
    // The operator's secret opens no tenant, and a tenant's no console.
    let login = tenant.login(Role::Admin).to_string();
    assert_eq!(guess, said(&login, "postgres", SECRET));
    assert_eq!(guess, said(&login, "tenantry", SECRET));
    for role in Role::ALL {
        let user = tenant.login(role).to_string();
        assert_eq!(code_of(&said(&user, "tenantry", &tenant.password)), "3D000");
    }
    // What a tenant asks is its database's, whatever it says.
    let (mut client, seen) = raw_tenant(&stack, &tenant, "postgres", &tenant.password);
    assert_eq!(code_of(&seen), "");
    for command in ["SHOW POOLS", "SHOW CLIENTS", "RELOAD", "KILL abcdefghijkl"] {
        let answer = code_of(&client.query(command));
        assert!(
            ["42704", "42601"].contains(&answer.as_str()),
            "{command}: {answer}"
        );
    }
    // The operator has one database.
    let (_, seen) = raw_console(&stack, "postgres", SECRET);
    assert_eq!(code_of(&seen), "3D000");
    let refused = stack.proxy().snapshot().await.counts.logins_refused;
    assert_eq!(refused["28P01"], 6);
    drop(stack);

    // Without an operator's secret, nothing opens it.
    let stack = Stack::start(|_| {}).await;
    let (_, seen) = raw_console(&stack, "tenantry", SECRET);
    assert_eq!(code_of(&seen), "28P01");
    let (_, seen) = raw_console(&stack, "tenantry", "");
    assert_eq!(code_of(&seen), "28P01");
}

/// When there are too many clients, somebody has to look.
#[tokio::test(flavor = "multi_thread")]
async fn it_has_room_for_the_operator_when_clients_have_none() {
    let stack = Stack::start(|config| {
        with_operator(config);
        config.limits.clients_max = 1;
    })
    .await;
    let tenant = stack.tenant();
    let _client = stack.connect(&tenant, Role::Read).await;
    let (_, seen) = raw_tenant(&stack, &tenant, "postgres", &tenant.password);
    assert_eq!(code_of(&seen), "53300");
    assert_eq!(show(&console(&stack).await, "SHOW CLIENTS").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_it_does_not_know_is_told_and_the_session_goes_on() {
    let stack = start().await;
    let (mut raw, seen) = raw_console(&stack, "tenantry", SECRET);
    assert_eq!(code_of(&seen), "");
    for (command, expected) in [
        ("SELECT 1", "42601"),
        ("SHOW NOTHING", "42601"),
        ("KILL", "42601"),
        ("KILL nobody", "22023"),
    ] {
        let answer = raw.query(command);
        assert_eq!(code_of(&answer), expected, "{command}");
        assert_eq!(answer.last().unwrap(), &(b'Z', b"I".to_vec()));
    }
    let answer = raw.query("SELECT 1");
    let (_, report) = answer.iter().find(|(kind, _)| *kind == b'E').unwrap();
    let report = parse::report(report).unwrap();
    for part in ["POOLS", "CLIENTS", "KILL", "RESUME", "RELOAD"] {
        assert!(report.message().contains(part), "{}", report.message());
    }
    assert_eq!(
        value(&raw.query("SHOW VERSION")),
        format!("Tenantry {}", env!("CARGO_PKG_VERSION"))
    );
    assert_eq!(raw.query("")[0].0, b'I');

    // In the extended protocol, all up to the Sync is skipped.
    let mut out = Vec::new();
    build::parse(b"", b"SELECT 1", &[], &mut out);
    build::bind_nothing(b"", b"", &mut out);
    build::execute(b"", 0, &mut out);
    build::sync(&mut out);
    raw.send(&out);
    let kinds: Vec<u8> = raw.until(b'Z').iter().map(|(kind, _)| *kind).collect();
    assert_eq!(kinds, b"EZ");
    // A portal gives as many rows as are asked for.
    let mut out = Vec::new();
    build::parse(b"lists", b"SHOW LISTS", &[], &mut out);
    build::describe(Kind::Statement, b"lists", &mut out);
    build::bind_nothing(b"", b"lists", &mut out);
    build::execute(b"", 5, &mut out);
    build::execute(b"", 0, &mut out);
    build::close(Kind::Statement, b"lists", &mut out);
    build::sync(&mut out);
    raw.send(&out);
    let kinds: Vec<u8> = raw.until(b'Z').iter().map(|(kind, _)| *kind).collect();
    assert_eq!(kinds, b"1tT2DDDDDsDDDC3Z");
    // What is no message ends it.
    raw.send(b"P\0\0\0\x05x");
    assert_eq!(code_of(&raw.rest()), "08P01");
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_ends_the_sessions_of_one_tenant() {
    let stack = start().await;
    let (tenant, other) = (stack.tenant(), stack.tenant());
    let console = console(&stack).await;
    let mut sessions = Vec::new();
    for _ in 0..2 {
        let (mut raw, _) = raw_tenant(&stack, &tenant, "postgres", &tenant.password);
        raw.query("BEGIN");
        sessions.push(raw);
    }
    let beside = stack.connect(&other, Role::Write).await;
    console
        .simple_query(&format!("KILL {}", tenant.id))
        .await
        .unwrap();
    for session in &mut sessions {
        assert_eq!(code_of(&session.rest()), "57P01");
    }
    beside.batch_execute("SELECT 1").await.unwrap();
    // It can be used again at once.
    let again = stack.connect(&tenant, Role::Write).await;
    again.batch_execute("SELECT 1").await.unwrap();
    // One that nobody uses is no mistake.
    console.simple_query("KILL zzzzzzzzzzzz").await.unwrap();
}

/// What keeps a session on its server connection, for as long as it does.
#[tokio::test(flavor = "multi_thread")]
async fn it_shows_lends_and_pins_by_reason() {
    let stack = start().await;
    let tenant = stack.tenant();
    stack.set_route(&tenant, Role::Admin, |route| {
        route.pool_mode = model::route::PoolMode::Auto;
        route.limits.server_connections_max = 1;
    });
    let client = stack.connect(&tenant, Role::Admin).await;
    for _ in 0..3 {
        client
            .batch_execute("BEGIN; SELECT 1; COMMIT")
            .await
            .unwrap();
    }
    let console = console(&stack).await;
    assert!(show(&console, "SHOW PINS").await.is_empty());
    let rows = show(&console, "SHOW CLIENTS").await;
    let own = the(&rows, "database", tenant.id.as_str());
    assert_eq!((number(own, "lends"), &own["pins"]), (3, &None));
    let stats = show(&console, "SHOW STATS").await;
    let own = the(&stats, "database", tenant.id.as_str());
    assert_eq!(number(own, "total_server_assignment_count"), 3);

    // Looked at when somebody needs the server connection.
    client
        .batch_execute("CREATE TEMPORARY TABLE t (a int); LISTEN news")
        .await
        .unwrap();
    let other = stack.connect(&tenant, Role::Admin).await;
    let waiting = other.batch_execute("SELECT 1");
    let look = async {
        loop {
            let rows = show(&console, "SHOW PINS").await;
            if rows.len() == 2 {
                return rows;
            }
        }
    };
    let rows = tokio::select! {
        _ = waiting => panic!("there is no other server connection"),
        rows = look => rows,
    };
    assert_eq!(number(the(&rows, "reason", "temporary"), "sessions"), 1);
    assert_eq!(number(the(&rows, "reason", "listen"), "total"), 1);
    let rows = show(&console, "SHOW CLIENTS").await;
    assert!(
        rows.iter()
            .any(|row| row["pins"].as_deref() == Some("temporary,listen")),
        "{rows:?}"
    );
    let reasons = stack.proxy().snapshot().await.counts.pins;
    assert_eq!((reasons["temporary"], reasons["listen"]), (1, 1));
}

async fn process(client: &tokio_postgres::Client) -> i32 {
    let sql = "SELECT pg_backend_pid()";
    client.query_one(sql, &[]).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn reconnect_closes_server_connections_when_nobody_uses_them() {
    let stack = start().await;
    let tenant = stack.tenant();
    let console = console(&stack).await;
    let client = stack.connect(&tenant, Role::Write).await;
    client.batch_execute("BEGIN").await.unwrap();
    let before = process(&client).await;
    let reconnect = format!("RECONNECT {}", tenant.id);
    console.simple_query(&reconnect).await.unwrap();
    // Its transaction goes on.
    assert_eq!(process(&client).await, before);
    client.batch_execute("COMMIT").await.unwrap();
    drop(client);
    wait_until("the server connection is closed", || stack.backends() == 0);
    let client = stack.connect(&tenant, Role::Write).await;
    assert_ne!(process(&client).await, before);
    drop(client);
    wait_until("it is idle", || {
        tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(stack.proxy().snapshot())
        })
        .servers_idle
            == 1
    });
    console.simple_query(&reconnect).await.unwrap();
    wait_until("the idle one is closed, too", || stack.backends() == 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn pause_lets_transactions_end_and_new_ones_wait_until_resume() {
    let stack = start().await;
    let (tenant, other) = (stack.tenant(), stack.tenant());
    let console = console(&stack).await;
    let running = stack.connect(&tenant, Role::Write).await;
    running.batch_execute("BEGIN").await.unwrap();
    let late = stack.connect(&tenant, Role::Write).await;
    let beside = stack.connect(&other, Role::Write).await;
    let pause = format!("PAUSE {}", tenant.id);
    let pause = console.simple_query(&pause);
    let finish = async {
        // PAUSE has not come back before this transaction is over.
        running.batch_execute("SELECT 1; COMMIT").await.unwrap();
        drop(running);
    };
    let (paused, ()) = tokio::join!(pause, finish);
    paused.unwrap();
    wait_until("its server connections are closed", || {
        stack.backends() <= 1
    });

    let mut waiting = Box::pin(late.batch_execute("SELECT 1"));
    let operator = self::console(&stack).await;
    loop {
        tokio::select! {
            done = &mut waiting => panic!("it did not wait: {done:?}"),
            rows = show(&operator, "SHOW POOLS") => {
                let pool = rows.iter().find(|row| row["database"].as_deref() == Some(tenant.id.as_str()));
                if pool.is_some_and(|pool| number(pool, "cl_waiting") == 1) {
                    break;
                }
            }
        }
    }
    let rows = show(&operator, "SHOW DATABASES").await;
    assert_eq!(number(the(&rows, "name", tenant.id.as_str()), "paused"), 1);
    assert_eq!(number(the(&rows, "name", other.id.as_str()), "paused"), 0);
    beside.batch_execute("SELECT 1").await.unwrap();
    let resume = format!("RESUME {}", tenant.id);
    operator.simple_query(&resume).await.unwrap();
    waiting.await.unwrap();

    // Who waits can be ended; and a pause holds for a tenant that nobody uses.
    let cold = stack.tenant();
    operator
        .simple_query(&format!("PAUSE {}", cold.id))
        .await
        .unwrap();
    let mut config = stack.config(&cold, Role::Read);
    config.connect_timeout(std::time::Duration::from_secs(20));
    let mut connecting = Box::pin(stack.connect_with(&config));
    loop {
        tokio::select! {
            _ = &mut connecting => panic!("it did not wait"),
            rows = show(&operator, "SHOW CLIENTS") => {
                if rows.iter().any(|row| row["database"].as_deref() == Some(cold.id.as_str())) {
                    break;
                }
            }
        }
    }
    operator
        .simple_query(&format!("KILL {}", cold.id))
        .await
        .unwrap();
    assert_eq!(code(&connecting.await.err().unwrap()), "57P01");
}

/// A session that keeps its server connection only because nobody has asked what is on it gives it up; one
/// that has something there goes on, and PAUSE says so.
#[tokio::test(flavor = "multi_thread")]
async fn pause_asks_sessions_for_what_they_need_not_keep() {
    let stack = start().await;
    let tenant = stack.tenant();
    stack.set_route(&tenant, Role::Admin, |route| {
        route.pool_mode = model::route::PoolMode::Auto;
    });
    let console = console(&stack).await;
    let client = stack.connect(&tenant, Role::Admin).await;
    client
        .batch_execute("CREATE TABLE t (a int)")
        .await
        .unwrap();
    assert_eq!(stack.backends(), 1);
    let notices = async |command: &str| {
        let mut raw = raw_console(&stack, "tenantry", SECRET).0;
        let seen = raw.query(&format!("{command} {}", tenant.id));
        seen.iter().filter(|(kind, _)| *kind == b'N').count()
    };
    assert_eq!(notices("PAUSE").await, 0);
    wait_until("its server connection is closed", || stack.backends() == 0);
    let mut waiting = Box::pin(client.batch_execute("SELECT 1"));
    loop {
        tokio::select! {
            done = &mut waiting => panic!("it did not wait: {done:?}"),
            rows = show(&console, "SHOW POOLS") => {
                let pool = rows.iter().find(|row| row["database"].as_deref() == Some(tenant.id.as_str()));
                if pool.is_some_and(|pool| number(pool, "cl_waiting") == 1) {
                    break;
                }
            }
        }
    }
    assert_eq!(notices("RESUME").await, 0);
    waiting.await.unwrap();

    client
        .batch_execute("CREATE TEMPORARY TABLE own (a int)")
        .await
        .unwrap();
    assert_eq!(notices("PAUSE").await, 1);
    client.batch_execute("SELECT * FROM own").await.unwrap();
}

/// What the proxy knows is thrown away; what it then hears holds.
#[tokio::test(flavor = "multi_thread")]
async fn reload_asks_again_about_every_tenant() {
    let stack = start().await;
    let tenants = [stack.tenant(), stack.tenant(), stack.tenant()];
    let mut sessions: Vec<Raw> = tenants
        .iter()
        .map(|tenant| raw_tenant(&stack, tenant, "postgres", &tenant.password).0)
        .collect();
    for tenant in &tenants {
        // Nobody announces it.
        stack.set_route(tenant, Role::Write, |route| {
            route.access = Access::Suspended
        });
    }
    sessions[0].query("SELECT 1");
    console(&stack).await.simple_query("RELOAD").await.unwrap();
    for session in &mut sessions {
        assert_eq!(code_of(&session.rest()), "57P01");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_told_when_the_process_stops() {
    let mut stack = start().await;
    let (mut raw, _) = raw_console(&stack, "tenantry", SECRET);
    let proxy = stack.proxy.take().unwrap();
    proxy.drain(std::time::Duration::from_secs(5)).await;
    assert_eq!(code_of(&raw.rest()), "57P01");
}
