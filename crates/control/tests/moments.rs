//! Databases as they were at moments that are past, through the API.

#![allow(clippy::unwrap_used, reason = "a test's own code")]

mod kit;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, SecondsFormat, Utc};
use kit::{OPERATOR, Stack, text, wait_for};
use node::managed::{HistoryConfig, HistoryState};
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};
use tokio_postgres::Client;

fn often() -> HistoryConfig {
    HistoryConfig {
        free_bytes_min: Some(1 << 20),
        look_every: Duration::from_millis(20),
        ..HistoryConfig::default()
    }
}

async fn stack() -> Stack {
    let stack = Stack::with_history(Some(often()), |_| {}).await;
    let node = stack.node();
    wait_for(async || {
        let status = node.history().unwrap();
        (status.state == HistoryState::Kept).then_some(())
    })
    .await;
    stack
}

fn in_request(moment: DateTime<Utc>) -> String {
    moment.to_rfc3339_opts(SecondsFormat::Micros, true)
}

/// When each row was surely there, and surely was not.
#[derive(Default)]
struct Log(Vec<(DateTime<Utc>, DateTime<Utc>)>);

impl Log {
    async fn write(&mut self, client: &Client, rows: usize) {
        for _ in 0..rows {
            let number = i64::try_from(self.0.len()).unwrap();
            let before = Utc::now();
            let sql = "INSERT INTO log VALUES ($1)";
            client.execute(sql, &[&number]).await.unwrap();
            self.0.push((before, Utc::now()));
        }
    }

    /// Between this row and the next one.
    fn after(&self, row: usize) -> DateTime<Utc> {
        self.0[row].1 + (self.0[row + 1].0 - self.0[row].1) / 2
    }
}

async fn backup_at(stack: &Stack, database: &str, at: &str) -> Value {
    backup_of(stack, database, json!({ "at": at })).await
}

async fn backup_of(stack: &Stack, database: &str, asked: Value) -> Value {
    let path = format!("/customer/databases/{database}/backups?wait=60");
    let made = stack.post(&path, OPERATOR, asked).await.ok();
    let path = format!("/customer/backups/{}", text(&made["id"]));
    wait_for(async || {
        let made = stack.get(&path, OPERATOR).await.ok();
        (!["waiting", "running"].contains(&&*text(&made["state"]))).then_some(made)
    })
    .await
}

async fn restored(stack: &Stack, backup: &Value, body: Value) -> Value {
    let path = format!("/customer/backups/{}/restore?wait=60", text(&backup["id"]));
    let restore = stack.post(&path, OPERATOR, body).await.ok();
    assert_eq!(restore["state"], "done", "{restore}");
    restore["database"].clone()
}

async fn rows(client: &Client) -> i64 {
    // All from the first on, and no other.
    let sql = "SELECT count(*) FROM log WHERE n < (SELECT count(*) FROM log)";
    client.query_one(sql, &[]).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_becomes_what_it_was_while_its_neighbours_serve_on() {
    let stack = stack().await;
    let main = stack.create(OPERATOR, "main").await;
    let neighbour = stack.create(OPERATOR, "neighbour").await;
    let client = stack.login(&main).await.unwrap();
    client
        .batch_execute("CREATE TABLE log (n int8 PRIMARY KEY)")
        .await
        .unwrap();
    let mut log = Log::default();
    log.write(&client, 100).await;

    let (ends, served) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    let busy = tokio::spawn({
        let (ends, served, client) = (
            ends.clone(),
            served.clone(),
            stack.login(&neighbour).await.unwrap(),
        );
        async move {
            client
                .batch_execute("CREATE TABLE n (v int8)")
                .await
                .unwrap();
            while !ends.load(Ordering::Relaxed) {
                client
                    .batch_execute("INSERT INTO n VALUES (1)")
                    .await
                    .unwrap();
                served.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    for row in [3, 70] {
        let backup = backup_at(&stack, "main", &in_request(log.after(row))).await;
        assert_eq!(
            (&backup["state"], &backup["kind"]),
            (&json!("ready"), &json!("moment")),
            "{backup}"
        );
        let beside = restored(&stack, &backup, json!({ "name": format!("then-{row}") })).await;
        assert_eq!(
            rows(&stack.login(&beside).await.unwrap()).await,
            row as i64 + 1
        );
    }
    // In place; and then a moment from before that, when the database had another place.
    let backup = backup_at(&stack, "main", &in_request(log.after(50))).await;
    drop(client);
    restored(&stack, &backup, json!({})).await;
    assert_eq!(rows(&stack.login(&main).await.unwrap()).await, 51);
    let backup = backup_at(&stack, "main", &in_request(log.after(98))).await;
    let beside = restored(&stack, &backup, json!({ "name": "before-that" })).await;
    assert_eq!(rows(&stack.login(&beside).await.unwrap()).await, 99);

    ends.store(true, Ordering::Relaxed);
    busy.await.expect("the neighbour saw no error");
    assert!(served.load(Ordering::Relaxed) > 0);
    stack.stop().await;
}

/// One of several that write at once, all of a transaction or nothing: a row more, an old one less, and a count.
struct Writer {
    number: i64,
    log: Log,
}

impl Writer {
    const KEEPS: i64 = 10;

    async fn write(&mut self, client: &Client, until: &AtomicBool, written: &AtomicU64) {
        let sql = "WITH new AS (INSERT INTO entry VALUES ($1, $2)), old AS (DELETE FROM entry WHERE w = $1 AND n = $2 - $3)
            UPDATE counter SET n = $2 WHERE w = $1";
        while !until.load(Ordering::Relaxed) {
            let n = i64::try_from(self.log.0.len()).unwrap() + 1;
            let before = Utc::now();
            let changed = client.execute(sql, &[&self.number, &n, &Self::KEEPS]).await;
            assert_eq!(changed.unwrap(), 1);
            self.log.0.push((before, Utc::now()));
            written.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What is there of it is what it had written at `moment`, and at most what it was writing then.
    async fn assert_was(&self, restored: &Client, moment: DateTime<Utc>) {
        let sql = "SELECT c.n, count(e.n), coalesce(min(e.n), 0), coalesce(max(e.n), 0)
            FROM counter c LEFT JOIN entry e USING (w) WHERE w = $1 GROUP BY c.n";
        let row = restored.query_one(sql, &[&self.number]).await.unwrap();
        let [n, count, first, last] = [0, 1, 2, 3].map(|column| row.get::<_, i64>(column));
        let surely = self.log.0.iter().filter(|(_, after)| *after <= moment);
        let perhaps = self.log.0.iter().filter(|(before, _)| *before <= moment);
        let [surely, perhaps] =
            [surely.count(), perhaps.count()].map(|count| i64::try_from(count).unwrap());
        let found = (n, count, first, last);
        assert!(
            (surely..=perhaps).contains(&n),
            "{moment}: of {surely} to {perhaps}: {found:?}"
        );
        let first = if n == 0 {
            0
        } else {
            (n - Self::KEEPS + 1).max(1)
        };
        assert_eq!(found, (n, n.min(Self::KEEPS), first, n), "{moment}");
    }
}

/// Few here; `./dev bench moments` does it with more, and for longer.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_restored_is_what_was_committed_by_then_at_any_moment_while_everybody_writes() {
    const WRITERS: i64 = 2;
    const WRITTEN: u64 = 300;
    const MOMENTS: usize = 3;
    let seed = match std::env::var("TENANTRY_SEED") {
        Ok(seed) => seed.parse().expect("TENANTRY_SEED is a number"),
        Err(_) => rand::random::<u64>(),
    };
    eprintln!("moments are drawn from TENANTRY_SEED={seed}");
    let mut draw = rand::rngs::StdRng::seed_from_u64(seed);
    let stack = stack().await;
    let main = stack.create(OPERATOR, "main").await;
    let client = stack.login(&main).await.unwrap();
    let setup = format!(
        "CREATE TABLE entry (w int8, n int8, PRIMARY KEY (w, n)); CREATE TABLE counter (w int8 PRIMARY KEY, n int8);
         INSERT INTO counter SELECT w, 0 FROM generate_series(1, {WRITERS}) w"
    );
    client.batch_execute(&setup).await.unwrap();
    let (ends, written) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    let begun = Utc::now();
    let mut writers = Vec::new();
    for number in 1..=WRITERS {
        let (ends, written) = (ends.clone(), written.clone());
        let client = stack.login(&main).await.unwrap();
        writers.push(tokio::spawn(async move {
            let log = Log::default();
            let mut writer = Writer { number, log };
            writer.write(&client, &ends, &written).await;
            writer
        }));
    }
    wait_for(async || (written.load(Ordering::Relaxed) >= WRITTEN).then_some(())).await;
    let took = (Utc::now() - begun).num_microseconds().unwrap();
    let mut restores = Vec::new();
    for number in 0..MOMENTS {
        let moment = begun + chrono::Duration::microseconds(draw.random_range(0..took));
        let asked = json!({ "at": in_request(moment), "keep": false });
        let backup = backup_of(&stack, "main", asked).await;
        let name = json!({ "name": format!("then-{number}") });
        restores.push((moment, restored(&stack, &backup, name).await));
    }
    ends.store(true, Ordering::Relaxed);
    for writer in writers {
        let writer = writer.await.expect("a writer saw no error");
        for (moment, beside) in &restores {
            let client = stack.login(beside).await.unwrap();
            writer.assert_was(&client, *moment).await;
        }
    }
    // Nothing is left of what was made only to be restored.
    wait_for(async || {
        let path = "/customer/databases/main/backups";
        let all = stack.get(path, OPERATOR).await.ok();
        all.as_array().unwrap().is_empty().then_some(())
    })
    .await;
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn moments_that_cannot_be_had_are_refused_and_the_answer_says_which_can() {
    let stack = stack().await;
    stack.create(OPERATOR, "main").await;
    let moments = stack
        .get("/customer/databases/main/moments", OPERATOR)
        .await
        .ok();
    assert_eq!(moments["kept"], true, "{moments}");
    let created = stack.get("/customer/databases/main", OPERATOR).await.ok();
    let time = |value: &Value| DateTime::parse_from_rfc3339(&text(value)).unwrap();
    assert!(time(&moments["oldest"]) >= time(&created["created_at"]));
    let ask = async |at: &str| {
        let path = "/customer/databases/main/backups";
        stack.post(path, OPERATOR, json!({ "at": at })).await
    };
    let past = in_request(Utc::now() - chrono::Duration::days(2));
    let future = in_request(Utc::now() + chrono::Duration::hours(1));
    for at in [&past, &future] {
        let refused = ask(at).await.error(409, "moment_unknown");
        let words = text(&refused["message"]);
        assert!(
            words.contains("databases can be had as they were from"),
            "{refused}"
        );
    }
    ask("yesterday").await.error(400, "invalid_field");
    // It was not there yet, although the node's history reaches back so far.
    let oldest = stack.node().history().unwrap().oldest.unwrap();
    let early = DateTime::<Utc>::from(oldest) + chrono::Duration::microseconds(1);
    let failed = backup_at(&stack, "main", &in_request(early)).await;
    assert_eq!(failed["state"], "failed", "{failed}");
    assert!(
        text(&failed["last_error"]).contains("not there at that moment"),
        "{failed}"
    );
    stack.stop().await;

    let stack = Stack::start().await;
    stack.create(OPERATOR, "main").await;
    let moments = stack
        .get("/customer/databases/main/moments", OPERATOR)
        .await
        .ok();
    assert_eq!(
        moments,
        json!({ "kept": false, "oldest": null, "latest": null })
    );
    let path = "/customer/databases/main/backups";
    let at = in_request(Utc::now());
    stack
        .post(path, OPERATOR, json!({ "at": at }))
        .await
        .error(409, "moment_unknown");
    stack.stop().await;
}
