//! Clients that vanish, cancel and fail at any moment: nobody ever reads somebody else's answer.

#![allow(clippy::unwrap_used, reason = "a test")]

mod kit;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use kit::{Stack, Tenant, code};
use model::Role;
use rand::{RngExt, SeedableRng, rngs::StdRng};

const RUN_FOR: Duration = Duration::from_secs(8);

/// Each tenant's database holds its own id; each question holds a number that the answer repeats.
async fn one_life(stack: &Stack, tenant: &Tenant, seed: u64, answers: &AtomicU64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let client = match stack.connect_with(&stack.config(tenant, Role::Admin)).await {
        Ok(client) => client,
        // With a small budget some wait in vain; they are told so.
        Err(error) => return assert_eq!(code(&error), "53300", "{error}"),
    };
    // `cancel_query` returns when it has asked, so that its cancel may hit the next statement of this session,
    // as with PostgreSQL itself; never one of another session.
    let mut has_cancelled = false;
    for _ in 0..rng.random_range(1..12) {
        let number: i64 = rng.random();
        let what = rng.random_range(0..9);
        let result = match what {
            0..=3 => {
                let sql = "SELECT id, $1::int8 FROM canary";
                client.query_one(sql, &[&number]).await.map(|row| {
                    assert_eq!(row.get::<_, String>(0), tenant.id.as_str());
                    assert_eq!(row.get::<_, i64>(1), number);
                    answers.fetch_add(1, Ordering::Relaxed);
                })
            }
            4 => {
                let sql = format!("SELECT id, '{number}', repeat('x', 70000) FROM canary");
                client.simple_query(&sql).await.map(|messages| {
                    let row = messages.iter().find_map(|message| match message {
                        tokio_postgres::SimpleQueryMessage::Row(row) => Some(row),
                        _ => None,
                    });
                    assert_eq!(row.unwrap().get(0), Some(tenant.id.as_str()));
                    assert_eq!(row.unwrap().get(1), Some(&*number.to_string()));
                    answers.fetch_add(1, Ordering::Relaxed);
                })
            }
            5 => {
                let error = client.simple_query("SELECT 1/0").await.unwrap_err();
                let code = code(&error);
                let is_own = has_cancelled && code == "57014";
                assert!(is_own || ["22012", "53300"].contains(&code), "{error:?}");
                Ok(())
            }
            6 => client.batch_execute("BEGIN; SELECT 1; COMMIT").await,
            7 => {
                // Vanish in the middle of an answer, or of a transaction.
                let sql = "BEGIN; SELECT repeat('y', 1000) FROM generate_series(1, 5000)";
                let _ = tokio::time::timeout(
                    Duration::from_millis(rng.random_range(0..4)),
                    client.simple_query(sql),
                )
                .await;
                return;
            }
            _ => {
                has_cancelled = true;
                let cancel = client.cancel_token();
                let sleep = client.simple_query("SELECT pg_sleep(0.02)");
                let (slept, _) = futures_util::future::join(sleep, async {
                    tokio::time::sleep(Duration::from_millis(rng.random_range(0..25))).await;
                    cancel.cancel_query(stack.tls()).await
                })
                .await;
                slept.map(|_| ())
            }
        };
        if let Err(error) = result {
            match code(&error) {
                "57014" if has_cancelled => {}
                "53300" => return,
                _ => panic!("{error:?}"),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_belongs_to_its_question() {
    for workers in [1, 2] {
        let stack = Stack::with_budget(4, |config| config.workers = workers).await;
        let tenants: Vec<Tenant> = (0..3).map(|_| stack.tenant()).collect();
        for tenant in &tenants {
            let client = stack.connect(tenant, Role::Admin).await;
            let sql = format!("CREATE TABLE canary AS SELECT '{}'::text AS id", tenant.id);
            client.batch_execute(&sql).await.unwrap();
        }
        let answers = Arc::new(AtomicU64::new(0));
        let until = Instant::now() + RUN_FOR;
        let lives = (0..12).map(|number| {
            let (stack, tenant, answers) = (&stack, &tenants[number % 3], answers.clone());
            async move {
                let mut seed = number as u64 * 1_000_000;
                while Instant::now() < until {
                    one_life(stack, tenant, seed, &answers).await;
                    seed += 1;
                }
            }
        });
        futures_util::future::join_all(lives).await;
        let snapshot = stack.proxy().snapshot().await;
        assert_eq!((snapshot.mismatches, snapshot.panics), (0, 0));
        assert!(snapshot.nodes[0].servers <= 4);
        assert!(answers.load(Ordering::Relaxed) > 100);
        println!(
            "{} answers with {workers} workers",
            answers.load(Ordering::Relaxed)
        );
    }
}
