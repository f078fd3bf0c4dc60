//! Deaths and ends that no step is part of: two in a row, a postmaster or a server process alone,
//! SIGTERM, a second process on the same data.

use std::time::{Duration, Instant};

use super::{
    KEPT_LONG, block_on,
    point::Kill,
    request::{Answer, Request},
    tell,
    world::{Hears, Tenant, World},
};
use kit::{
    StackConfig,
    postgres::{Postgres, children},
    program::{self, is_running, signal, wait_for},
};
use rustix::process::Signal;
use serde_json::json;
use tokio_postgres::{Client, SimpleQueryMessage};

/// For a session whose server died to hear of it.
const HEAR_MAX: Duration = Duration::from_secs(10);
/// Between two looks at what other processes do: there is nothing to be woken by.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// For a look at what is defined to be due again.
const GIVE_BACK_MAX: Duration = Duration::from_secs(60);
/// What `--drain-limit` is set to where a test wants to see its end.
const DRAIN: Duration = Duration::from_secs(2);
/// Beyond the drain: PostgreSQL's own end, a checkpoint included.
const STOP_MAX: Duration = Duration::from_secs(20);

/// Runs a test on a stack that makes `pool` databases ahead, looks at it as an operator does, and stops it.
fn test(config: StackConfig, pool: u32, run: impl AsyncFnOnce(&mut World)) {
    block_on(async {
        let started = Instant::now();
        let mut world = World::start(config, pool, KEPT_LONG).await;
        run(&mut world).await;
        world.finish().await;
        let name = std::thread::current().name().unwrap_or_default().to_owned();
        tell(Postgres::System, &name, started.elapsed());
    });
}

/// A statement that runs until something ends it, on a session of its own.
async fn busy(world: &World, tenant: &Tenant, seconds: u32) -> Hears {
    let client = world.login(&tenant.id, &tenant.password).await;
    let client = client.expect("login");
    tokio::spawn(async move {
        let sleep = format!("SELECT pg_sleep({seconds})");
        client.query_one(&sleep, &[]).await.map(drop)
    })
}

/// Waits until PostgreSQL runs `count` sleeps.
async fn wait_busy(world: &World, count: i64) {
    let started = Instant::now();
    loop {
        let superuser = world.superuser("postgres").await.expect("PostgreSQL");
        let sleeps = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
        let row = superuser.query_one(sleeps, &[]).await.expect("count");
        if row.get::<_, i64>(0) == count {
            return;
        }
        assert!(started.elapsed() < HEAR_MAX, "{count} sleeps do not run");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Id of the process that serves a session. Asked in one message: a prepared statement is closed behind
/// the answer, and as long as that is not answered, `tokio_postgres` takes the reason why the session
/// ends for the answer to it and tells nobody.
async fn process_of(client: &Client) -> u32 {
    let answer = client.simple_query("SELECT pg_backend_pid()").await;
    let answer = answer.expect("its process");
    let process = answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    let process = process.expect("one row").parse();
    process.expect("a process id")
}

/// The process that a session used last and has given back. What definitions may do to a session is looked at behind an
/// answer, and not all the time: until then it may keep its server process, as long as nobody else wants one.
async fn given_back(world: &World, client: &Client) -> u32 {
    let console = world.console().await;
    let started = Instant::now();
    loop {
        let process = process_of(client).await;
        let servers = console.simple_query("SHOW SERVERS").await;
        let servers = servers.expect("its server connections");
        let is_idle = servers.iter().any(|message| match message {
            SimpleQueryMessage::Row(row) => {
                row.get("remote_pid") == Some(&process.to_string())
                    && row.get("state") == Some("idle")
            }
            _ => false,
        });
        if is_idle {
            return process;
        }
        let waited = started.elapsed();
        assert!(waited < GIVE_BACK_MAX, "{process} is not given back");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Kills a server process. PostgreSQL ends all others, and recovers; until these have heard of the death, they work as
/// before.
fn kill_process(world: &World, process: u32) {
    let postmaster = world.stack.postmaster().expect("PostgreSQL runs");
    let all = children(postmaster);
    assert!(all.contains(&process));
    signal(process, Signal::KILL);
    wait_for("the end of the others", STOP_MAX, || {
        (!all.iter().any(|pid| is_running(*pid))).then_some(())
    });
}

/// A session whose server died hears of it in time.
async fn assert_hears(session: Hears, what: &str) {
    let ended = tokio::time::timeout(HEAR_MAX, session).await;
    let ended = ended.unwrap_or_else(|_| panic!("{what}: it does not hear of it"));
    assert_ended(
        &ended.expect("no panic").expect_err("its server died"),
        what,
    );
}

/// The session of a client whose server died: told so, as PostgreSQL tells it.
fn assert_ended(error: &tokio_postgres::Error, what: &str) {
    let code = error.code().map(|code| code.code().to_owned());
    let code = code.unwrap_or_else(|| panic!("{what}: no SQLSTATE: {error:?}"));
    assert!(
        code.starts_with("57P0") || code.starts_with("08"),
        "{what}: {error:?}"
    );
}

async fn new_tenant(world: &mut World) -> Tenant {
    let name = world.new_name();
    let tenant = world.create(&name).await;
    world.write_canary(&tenant).await;
    tenant
}

/// The second kill falls into the recovery from the first.
#[test]
fn two_kills_in_a_row_converge() {
    test(StackConfig::default(), 0, async |world: &mut World| {
        for second in ["create.database:before", "create.open:between"] {
            let name = world.new_name();
            let request = Request::create(&name);
            world.arm("create.database:between");
            let sent = tokio::spawn(world.send(&request));
            world.wait_reached("create.database:between");
            world.stack.kill();
            world.kill_postgres();
            assert!(matches!(sent.await, Ok(Answer::Lost(_))));
            world.arm(second);
            world.stack.start_again();
            world.wait_reached(second);
            world.kill_and_return(Kill::Both);
            world.wait_settled().await;
            let tenant = Tenant::of(&world.insist(&request).await);
            world.write_canary(&tenant).await;
            world.assert_sound().await;
        }
    });
}

/// Also while it recovers: PostgreSQL is killed again and again, tenantry lives.
#[test]
fn postgresql_that_dies_is_started_again_and_sessions_are_told() {
    test(StackConfig::default(), 2, async |world: &mut World| {
        let tenant = new_tenant(world).await;
        let process = world.stack.pid();
        for _ in 0..3 {
            let session = world.session(&tenant.id, &tenant.password).await;
            let (idle, hears) = session.expect("login");
            // One that only listens keeps its server connection; one that does nothing has none to lose.
            idle.batch_execute("LISTEN news")
                .await
                .expect("a statement");
            let worker = busy(world, &tenant, 600).await;
            wait_busy(world, 1).await;
            world.kill_postgres();
            assert_hears(worker, "busy").await;
            assert_hears(hears, "idle").await;
            world.assert_recovers(&tenant).await;
        }
        assert_eq!(world.stack.pid(), process);
        assert!(is_running(process), "tenantry lives on");
    });
}

/// Its children outlive it for a moment, hold its shared memory and keep a new one from starting.
#[test]
fn a_postmaster_that_dies_alone_is_replaced_when_its_children_are_gone() {
    test(StackConfig::default(), 2, async |world: &mut World| {
        let tenant = new_tenant(world).await;
        let worker = busy(world, &tenant, 600).await;
        wait_busy(world, 1).await;
        let old = world.stack.postmaster().expect("PostgreSQL runs");
        world.stack.kill_postgres();
        assert_hears(worker, "busy").await;
        wait_for("another postmaster", STOP_MAX, || {
            world.stack.postmaster().filter(|new| *new != old)
        });
        world.assert_recovers(&tenant).await;
    });
}

/// One server process that dies makes PostgreSQL end all others, and recover.
#[test]
fn one_server_process_that_dies_takes_nobodys_data() {
    test(StackConfig::default(), 2, async |world: &mut World| {
        let tenant = new_tenant(world).await;
        let session = world.session(&tenant.id, &tenant.password).await;
        let (client, hears) = session.expect("login");
        // One that is idle and holds nothing has no server process of its own: see below.
        client.batch_execute("BEGIN").await.expect("a transaction");
        let process = process_of(&client).await;
        // One that listens keeps it between transactions.
        let session = world.session(&tenant.id, &tenant.password).await;
        let (listener, listens) = session.expect("login");
        let listen = listener.batch_execute("LISTEN news").await;
        listen.expect("a statement");
        let postmaster = world.stack.postmaster();
        kill_process(world, process);
        assert_hears(hears, "its own").await;
        assert_hears(listens, "another's").await;
        world.assert_recovers(&tenant).await;
        assert_eq!(world.stack.postmaster(), postmaster);
    });
}

/// Between transactions a session that holds nothing has no server process, so it has none to lose.
#[test]
fn an_idle_session_survives_the_server_process_that_it_used_last() {
    test(StackConfig::default(), 2, async |world: &mut World| {
        let tenant = new_tenant(world).await;
        let session = world.session(&tenant.id, &tenant.password).await;
        let (client, hears) = session.expect("login");
        let set = client.batch_execute("SET work_mem = '5MB'").await;
        set.expect("a statement");
        let process = given_back(world, &client).await;
        kill_process(world, process);
        world.assert_recovers(&tenant).await;
        assert!(!hears.is_finished(), "it was told of what was not its own");
        let row = client.query_one("SELECT v, current_setting('work_mem') FROM canary", &[]);
        let row = row.await.expect("its next statement");
        assert_eq!((row.get(0), row.get(1)), (tenant.id.as_str(), "5MB"));
        assert_ne!(process_of(&client).await, process);
    });
}

#[test]
fn sigterm_during_a_create_ends_within_the_limit_and_the_create_converges() {
    let config = StackConfig::default().arg("--drain-limit").arg("2s");
    test(config, 0, async |world: &mut World| {
        for point in [
            "create.commit:between",
            "create.commit:after",
            "create.database:between",
        ] {
            let name = world.new_name();
            let request = Request::create(&name);
            world.arm(point);
            let sent = tokio::spawn(world.send(&request));
            world.wait_reached(point);
            let started = Instant::now();
            world.stack.stop();
            assert!(
                started.elapsed() < DRAIN + STOP_MAX,
                "{:?}",
                started.elapsed()
            );
            let answer = sent.await.expect("no panic");
            assert!(answer.done().is_none(), "{point}: {answer:?}");
            world.disarm();
            world.stack.start_again();
            world.wait_settled().await;
            let tenant = Tenant::of(&world.insist(&request).await);
            world.write_canary(&tenant).await;
            world.assert_sound().await;
        }
    });
}

/// What ends in time is answered; what does not is told, and does not hold up the end.
#[test]
fn sigterm_lets_statements_finish_within_the_limit() {
    let config = StackConfig::default().arg("--drain-limit").arg("2s");
    test(config, 0, async |world: &mut World| {
        let tenant = new_tenant(world).await;
        let (quick, slow) = (
            busy(world, &tenant, 1).await,
            busy(world, &tenant, 600).await,
        );
        wait_busy(world, 2).await;
        let started = Instant::now();
        world.stack.terminate();
        quick
            .await
            .expect("no panic")
            .expect("it had time to finish");
        let ended = slow.await.expect("no panic").expect_err("it had not");
        assert_ended(&ended, "slow");
        assert!(world.stack.wait_end(STOP_MAX).success());
        assert!(
            started.elapsed() < DRAIN + STOP_MAX,
            "{:?}",
            started.elapsed()
        );
        assert_eq!(world.stack.postmaster(), None, "PostgreSQL still runs");

        world.stack.start_again();
        world.wait_settled().await;
        world.assert_canary(&tenant).await;
    });
}

/// The limit is half a minute; the test takes a few seconds.
#[test]
fn a_slow_stop_says_what_it_waits_for_and_a_second_signal_hurries_it() {
    test(StackConfig::default(), 0, async |world: &mut World| {
        let tenant = new_tenant(world).await;
        let slow = busy(world, &tenant, 600).await;
        wait_busy(world, 1).await;
        world.stack.terminate();
        wait_for("what is waited for", HEAR_MAX, || {
            let log = world.stack.log();
            log.contains("for 1 client to end its transaction; a second signal stops at once")
                .then_some(())
        });
        let hurried = Instant::now();
        world.stack.terminate();
        assert!(world.stack.wait_end(STOP_MAX).success());
        assert!(hurried.elapsed() < STOP_MAX, "{:?}", hurried.elapsed());
        assert!(world.stack.log().contains("stopping at once"));
        slow.await.expect("no panic").expect_err("it had no time");
        assert_eq!(world.stack.postmaster(), None, "PostgreSQL still runs");

        world.stack.start_again();
        world.wait_settled().await;
        world.assert_canary(&tenant).await;
    });
}

#[test]
fn starting_again_finds_all_data_and_the_pool() {
    test(StackConfig::default(), 2, async |world: &mut World| {
        let kept = new_tenant(world).await;
        let deleted = new_tenant(world).await;
        world.insist(&Request::delete(&deleted)).await;
        world.wait_settled().await;
        let rows = async |world: &World| {
            let catalog = world.superuser("tenantry").await.expect("the catalog");
            let all = "SELECT pid, owner, stage FROM placement ORDER BY 1";
            let rows = catalog.query(all, &[]).await.expect("rows");
            let text = |row: &tokio_postgres::Row, column| row.get::<_, String>(column);
            rows.iter()
                .map(|row| [text(row, 0), text(row, 1), text(row, 2)])
                .collect::<Vec<_>>()
        };
        let before = rows(world).await;
        for kill in [None, Some(Kill::Tenantry), Some(Kill::Both)] {
            match kill {
                None => {
                    world.stack.stop();
                    world.stack.start_again();
                }
                Some(kill) => world.kill_and_return(kill),
            }
            world.wait_settled().await;
            assert_eq!(
                rows(world).await,
                before,
                "{kill:?}: nothing was made, nothing removed"
            );
            world.assert_canary(&kept).await;
            world.assert_sound().await;
        }
        world
            .insist(&Request::act(&deleted, "undelete", json!({})))
            .await;
        world.assert_canary(&deleted).await;
    });
}

#[test]
fn a_second_process_on_the_same_data_is_refused_with_the_reason() {
    test(StackConfig::default(), 0, async |world: &mut World| {
        let pid = world.stack.pid();
        // On ports of its own: it is the data that is taken.
        let second = program::run(&mut world.stack.serve());
        assert!(second.code.is_some_and(|code| code != 0), "{second:#?}");
        assert!(second.stderr.contains("in use"), "{second:#?}");
        assert!(second.stderr.contains(&pid.to_string()), "{second:#?}");
        assert!(second.stdout.is_empty(), "{second:#?}");
        // The first has not noticed.
        assert!(is_running(pid));
        world.assert_sound().await;
    });
}
