//! What a node was at any second: kept beside it, within bounds, and recovered without touching it.

#![allow(clippy::unwrap_used, reason = "a test")]

mod kit;

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use kit::{MAJORS, STOP, Scratch, config, create, login, superuser, until};
use model::{Pid, Role};
use node::{
    Node,
    managed::{self, HistoryConfig, HistoryState, Managed, ManagedConfig, MomentError},
};
use tokio_postgres::Client;

const WITHIN: Duration = Duration::from_secs(300);

/// Looks often, and leaves no more free than there surely is.
fn often() -> HistoryConfig {
    HistoryConfig {
        free_bytes_min: Some(1 << 20),
        look_every: Duration::from_millis(20),
        ..HistoryConfig::default()
    }
}

async fn start(major: u32, dir: &Scratch, history: HistoryConfig) -> Managed {
    let config = ManagedConfig {
        history: Some(history),
        ..config(major, dir)
    };
    managed::start(config)
        .await
        .unwrap_or_else(|error| panic!("{error:#}"))
}

async fn is_kept(node: &Node) {
    until("a base backup is there", async || {
        node.history().unwrap().state == HistoryState::Kept
    })
    .await;
}

fn root(dir: &Scratch) -> PathBuf {
    dir.path().join("data/postgres/history")
}

/// Rows that were surely committed, and that surely were not, at some moment.
#[derive(Default)]
struct Log(Vec<(i64, SystemTime, SystemTime)>);

impl Log {
    async fn write(&mut self, client: &Client, rows: i64) {
        for _ in 0..rows {
            let number = self.0.len() as i64;
            let before = SystemTime::now();
            client
                .execute("INSERT INTO t VALUES ($1)", &[&number])
                .await
                .unwrap();
            self.0.push((number, before, SystemTime::now()));
        }
    }

    /// Between two rows, so that there is one answer.
    fn between(&self, number: usize) -> SystemTime {
        let (_, _, after) = self.0[number];
        let (_, before, _) = self.0[number + 1];
        after + before.duration_since(after).unwrap() / 2
    }

    /// How many there were at `moment`.
    fn at(&self, moment: SystemTime) -> i64 {
        let surely = self.0.iter().filter(|(_, _, after)| *after <= moment);
        let perhaps = self.0.iter().filter(|(_, before, _)| *before <= moment);
        let (surely, perhaps) = (surely.count(), perhaps.count());
        assert_eq!(surely, perhaps, "the moment lies inside a commit");
        surely as i64
    }
}

async fn rows_of(node: &Node, pid: &Pid) -> Vec<i64> {
    let client = superuser(node, &pid.database()).await;
    let rows = client
        .query("SELECT n FROM t ORDER BY n", &[])
        .await
        .unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

async fn with_table(node: &Node) -> (Pid, Client) {
    let pid = create(node).await;
    let client = login(node, &pid, Role::Admin).await.unwrap();
    client
        .batch_execute("CREATE TABLE t (n int8 PRIMARY KEY)")
        .await
        .unwrap();
    (pid, client)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_moment_is_what_was_committed_then() {
    for major in MAJORS {
        let dir = Scratch::new();
        // Before any base backup is begun.
        let server = kit::start(major, &dir).await;
        let (old, _) = with_table(&server.node()).await;
        server.stop(STOP).await;
        let server = start(major, &dir, often()).await;
        let node = server.node();
        let into_old = login(&node, &old, Role::Admin).await.unwrap();
        let mut log = Log::default();
        is_kept(&node).await;
        let begun = node.history().unwrap().oldest.unwrap();
        // Also a database that was made after the base backup.
        let (new, into_new) = with_table(&node).await;
        let mut log_of_new = Log::default();
        let platform = superuser(&node, "postgres").await;
        for _ in 0..4 {
            log.write(&into_old, 50).await;
            log_of_new.write(&into_new, 50).await;
            platform
                .batch_execute("SELECT pg_switch_wal()")
                .await
                .unwrap();
        }
        for number in [0, 77, 198] {
            let moment = log.between(number);
            let found = node.recover(moment, Some(&old), WITHIN).await.unwrap();
            assert!(found.is_partial());
            assert_eq!(
                rows_of(&found.node(), &old).await,
                (0..log.at(moment)).collect::<Vec<_>>(),
                "{major}"
            );
            found.throw_away().await.unwrap();
        }
        let moment = log_of_new.between(77);
        let found = node.recover(moment, Some(&new), WITHIN).await.unwrap();
        assert!(!found.is_partial(), "it may be a copy of any other");
        assert_eq!(
            rows_of(&found.node(), &new).await,
            (0..log_of_new.at(moment)).collect::<Vec<_>>(),
            "{major}"
        );
        found.throw_away().await.unwrap();
        // Nothing of it is left, and the node knows nothing of it.
        assert!(!dir.path().join("data/postgres/moment").exists());
        assert_eq!(rows_of(&node, &old).await.len(), 200);
        for moment in [
            begun - Duration::from_secs(1),
            SystemTime::now() + Duration::from_secs(60),
        ] {
            let error = node.recover(moment, Some(&old), WITHIN).await.unwrap_err();
            assert!(matches!(error, MomentError::Unknown { .. }), "{error:?}");
        }
        server.stop(STOP).await;
    }
}

/// What kill -9 leaves at each place: half a base backup, half a recovery with a server that runs on, a segment
/// that arrived twice.
#[tokio::test(flavor = "multi_thread")]
async fn what_an_interrupted_pass_left_is_removed_and_the_history_goes_on() {
    for major in MAJORS {
        let dir = Scratch::new();
        let server = start(major, &dir, often()).await;
        let node = server.node();
        let (pid, client) = with_table(&node).await;
        is_kept(&node).await;
        let mut log = Log::default();
        log.write(&client, 20).await;
        let moment = log.between(10);
        let found = node.recover(moment, Some(&pid), WITHIN).await.unwrap();
        let orphan =
            fs::read_to_string(dir.path().join("data/postgres/moment/data/postmaster.pid"));
        let orphan: u32 = orphan.unwrap().lines().next().unwrap().parse().unwrap();
        std::mem::forget(found);
        server.stop(STOP).await;
        let half = root(&dir).join("base/new/data");
        fs::create_dir_all(&half).unwrap();
        fs::write(half.join("PG_VERSION"), "half").unwrap();
        fs::write(root(&dir).join("packed/.new"), "half").unwrap();

        let server = start(major, &dir, often()).await;
        let node = server.node();
        until("the server beside is gone", async || {
            let state = fs::read_to_string(format!("/proc/{orphan}/stat"));
            state.map_or(true, |text| text.contains(") Z "))
        })
        .await;
        assert!(!half.exists() && !dir.path().join("data/postgres/moment").exists());
        is_kept(&node).await;
        // From before the restart, with the base from before it.
        assert_eq!(node.history().unwrap().bases, 1);
        let found = node.recover(moment, Some(&pid), WITHIN).await.unwrap();
        assert_eq!(
            rows_of(&found.node(), &pid).await.len() as i64,
            log.at(moment)
        );
        // Dropped in the middle: the next one begins anew.
        drop(found);
        let found = node.recover(moment, Some(&pid), WITHIN).await.unwrap();
        found.throw_away().await.unwrap();
        server.stop(STOP).await;
    }
}

/// Numbers of files in a directory of the history.
fn count(dir: &Path) -> usize {
    fs::read_dir(dir).unwrap().count()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_older_than_the_retention_goes_with_its_part_of_the_log() {
    let dir = Scratch::new();
    let history = HistoryConfig {
        keep: Duration::from_millis(1),
        base_every: Duration::from_secs(1),
        ..often()
    };
    let server = start(18, &dir, history).await;
    let node = server.node();
    let platform = superuser(&node, "postgres").await;
    let name = |entry: fs::DirEntry| entry.file_name().into_string().unwrap();
    let names = |part: &str| -> Vec<String> {
        let found = fs::read_dir(root(&dir).join(part)).unwrap();
        found.map(|entry| name(entry.unwrap())).collect()
    };
    is_kept(&node).await;
    let (first_base, first_segment) = (names("base"), names("packed"));
    until("a later base replaced the first", async || {
        platform
            .batch_execute("SELECT pg_current_xact_id(), pg_switch_wal()")
            .await
            .unwrap();
        let (bases, segments) = (names("base"), names("packed"));
        let gone = |one: &String, of: &[String]| !of.contains(one);
        first_base.iter().all(|base| gone(base, &bases))
            && first_segment.iter().all(|segment| gone(segment, &segments))
    })
    .await;
    // What is left is bounded: two bases at most, and one that is being made.
    assert!(count(&root(&dir).join("base")) <= 4);
    server.stop(STOP).await;
}

/// A disk without room, and an archive that takes nothing, cost the history and not the server.
#[tokio::test(flavor = "multi_thread")]
async fn without_room_the_history_goes_and_the_server_stays() {
    let dir = Scratch::new();
    let server = start(15, &dir, often()).await;
    let node = server.node();
    is_kept(&node).await;
    server.stop(STOP).await;
    let full = HistoryConfig {
        free_bytes_min: Some(u64::MAX / 2),
        ..often()
    };
    let server = start(15, &dir, full).await;
    let node = server.node();
    until("it is given up", async || {
        node.history().unwrap().state == HistoryState::GivenUp
    })
    .await;
    let (pid, client) = with_table(&node).await;
    client
        .batch_execute("INSERT INTO t VALUES (1)")
        .await
        .unwrap();
    let platform = superuser(&node, "postgres").await;
    platform
        .batch_execute("SELECT pg_switch_wal()")
        .await
        .unwrap();
    until("the archiver throws away", async || {
        let row = platform
            .query_one(
                "SELECT count(*) FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready'",
                &[],
            )
            .await;
        row.unwrap().get::<_, i64>(0) == 0
    })
    .await;
    for part in ["wal", "packed", "base"] {
        assert_eq!(count(&root(&dir).join(part)), 0, "{part}");
    }
    let error = node
        .recover(SystemTime::now(), Some(&pid), WITHIN)
        .await
        .unwrap_err();
    assert!(
        matches!(error, MomentError::Unknown { oldest: None }),
        "{error:?}"
    );
    server.stop(STOP).await;

    // There is room again: it begins anew.
    let server = start(15, &dir, often()).await;
    is_kept(&server.node()).await;
    assert!(!root(&dir).join("discard").exists());
    server.stop(STOP).await;

    // Nobody wants it any more: it costs nothing.
    let server = kit::start(15, &dir).await;
    assert!(!root(&dir).exists());
    assert_eq!(server.node().history(), None);
    let error = server
        .node()
        .recover(SystemTime::now(), None, WITHIN)
        .await
        .unwrap_err();
    assert!(matches!(error, MomentError::NotKept), "{error:?}");
    server.stop(STOP).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_of_the_log_that_is_missing_is_never_recovered_over() {
    let dir = Scratch::new();
    let server = start(18, &dir, often()).await;
    let node = server.node();
    let (pid, client) = with_table(&node).await;
    is_kept(&node).await;
    let mut log = Log::default();
    let platform = superuser(&node, "postgres").await;
    for _ in 0..3 {
        log.write(&client, 5).await;
        platform
            .batch_execute("SELECT pg_switch_wal()")
            .await
            .unwrap();
    }
    until("three segments", async || {
        node.history().unwrap().segments >= 3
    })
    .await;
    let mut packed: Vec<PathBuf> = fs::read_dir(root(&dir).join("packed"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    packed.sort();
    fs::remove_file(&packed[1]).unwrap();
    until("a new base", async || {
        let status = node.history().unwrap();
        status
            .oldest
            .is_some_and(|oldest| oldest > log.0.last().unwrap().2)
    })
    .await;
    let error = node
        .recover(log.between(3), Some(&pid), WITHIN)
        .await
        .unwrap_err();
    assert!(matches!(error, MomentError::Unknown { .. }), "{error:?}");
    server.stop(STOP).await;
}

/// Whoever asked went away, at some place of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_recovery_that_is_given_up_leaves_nothing_and_the_next_one_is_right() {
    for major in MAJORS {
        let dir = Scratch::new();
        let server = start(major, &dir, often()).await;
        let node = server.node();
        let (pid, client) = with_table(&node).await;
        is_kept(&node).await;
        let mut log = Log::default();
        log.write(&client, 20).await;
        let moment = log.between(10);
        let root = dir.path().join("data/postgres/moment");
        for reached in ["conf", "data/global", "data/pg_wal", "data/postmaster.pid"] {
            let made = root.join(reached);
            tokio::select! {
                found = node.recover(moment, Some(&pid), WITHIN) => {
                    found.unwrap().throw_away().await.unwrap();
                }
                () = until("it got so far", async || made.exists()) => {}
            }
            until("nothing is left", async || !root.exists()).await;
        }
        let found = node.recover(moment, Some(&pid), WITHIN).await.unwrap();
        let rows = rows_of(&found.node(), &pid).await;
        assert_eq!(rows.len() as i64, log.at(moment), "{major}");
        found.throw_away().await.unwrap();
        server.stop(STOP).await;
    }
}
