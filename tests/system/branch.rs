//! A branch of a database that is written to: no client sees an error, nothing is lost or doubled, and the
//! branch is one moment of its parent.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use kit::{Stack, StackConfig, postgres::Postgres, program::run};
use rustls::{
    ClientConfig, RootCertStore, pki_types::CertificateDer, pki_types::pem::PemObject as _,
};
use serde_json::{Value, json};
use tokio_postgres::{AsyncMessage, Client, Config, config::SslMode};
use tokio_postgres_rustls::MakeRustlsConnect;

const WRITERS: usize = 8;

fn tls(stack: &Stack) -> MakeRustlsConnect {
    let mut roots = RootCertStore::empty();
    let certificate = CertificateDer::from_pem_file(stack.certificate()).unwrap();
    roots.add(certificate).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    MakeRustlsConnect::new(config)
}

/// A session, and the notifications it hears, counted.
async fn connect(stack: &Stack, made: &Value, heard: Arc<AtomicU64>) -> Client {
    let address = stack.pg_address();
    let (host, port) = address.rsplit_once(':').unwrap();
    let mut config = Config::new();
    config
        .host(host)
        .port(port.parse().unwrap())
        .user(made["admin_user"].as_str().unwrap())
        .password(made["admin_password"].as_str().unwrap())
        .dbname("postgres")
        .ssl_mode(SslMode::Require);
    let (client, mut connection) = config.connect(tls(stack)).await.unwrap();
    tokio::spawn(async move {
        while let Some(Ok(message)) = std::future::poll_fn(|cx| connection.poll_message(cx)).await {
            if let AsyncMessage::Notification(_) = message {
                heard.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    client
}

/// Writers that go on until they are told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    /// Transactions acknowledged, by writer.
    acknowledged: Arc<Vec<AtomicU64>>,
    slowest: Arc<Mutex<Vec<Duration>>>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    async fn begin(stack: &Stack, made: &Value) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged: Arc<Vec<AtomicU64>> =
            Arc::new((0..WRITERS).map(|_| AtomicU64::new(0)).collect());
        let slowest = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = Vec::new();
        for writer in 0..WRITERS {
            let client = connect(stack, made, Arc::default()).await;
            let (stop, acknowledged) = (stop.clone(), acknowledged.clone());
            let slowest = slowest.clone();
            tasks.push(tokio::spawn(async move {
                let w = i32::try_from(writer).unwrap();
                let mut n = 0_i64;
                while !stop.load(Ordering::Relaxed) {
                    n += 1;
                    let began = Instant::now();
                    let sql = format!(
                        "BEGIN; INSERT INTO log VALUES ({w}, {n}); \
                         UPDATE account SET n = n + 1 WHERE w = {w}; \
                         NOTIFY done, '{w}:{n}'; COMMIT"
                    );
                    let done = client.batch_execute(&sql).await;
                    done.unwrap_or_else(|error| panic!("writer {w} at {n}: {error:?}"));
                    slowest.lock().unwrap().push(began.elapsed());
                    acknowledged[writer].fetch_add(1, Ordering::Relaxed);
                }
            }));
        }
        Self {
            stop,
            acknowledged,
            slowest,
            tasks,
        }
    }

    fn counts(&self) -> Vec<u64> {
        let counts = self.acknowledged.iter();
        counts.map(|count| count.load(Ordering::Relaxed)).collect()
    }

    /// Until every writer has gone on by some transactions.
    async fn goes_on(&self) {
        let before = self.counts();
        while !self
            .counts()
            .iter()
            .zip(&before)
            .all(|(now, before)| *now >= before + 5)
        {
            assert!(
                self.tasks.iter().all(|task| !task.is_finished()),
                "a writer ended"
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// All transactions that were acknowledged.
    async fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.unwrap();
        }
        self.acknowledged
            .iter()
            .map(|count| count.load(Ordering::Relaxed))
            .sum()
    }

    fn figures(&self) -> String {
        let mut all = std::mem::take(&mut *self.slowest.lock().unwrap());
        all.sort_unstable();
        let at = |share: usize| all[(all.len() - 1) * share / 100].as_millis();
        format!(
            "{} transactions, p50 {} ms, p99 {} ms, slowest {} ms",
            all.len(),
            at(50),
            at(99),
            at(100)
        )
    }
}

/// One moment of the parent: between what was acknowledged before the branch was asked for and after it was
/// answered, with every transaction whole and no number of a writer missing.
async fn check_moment(stack: &Stack, branch: &Value, before: &[u64], after: &[u64]) {
    let client = connect(stack, branch, Arc::default()).await;
    let sql = "SELECT a.w, a.n, (SELECT count(*) FROM log WHERE w = a.w), \
         coalesce((SELECT max(n) FROM log WHERE w = a.w), 0) FROM account a ORDER BY a.w";
    let rows = client.query(sql, &[]).await.unwrap();
    assert_eq!(rows.len(), WRITERS);
    for (row, (before, after)) in rows.iter().zip(before.iter().zip(after)) {
        let (n, count, last): (i64, i64, i64) = (row.get(1), row.get(2), row.get(3));
        assert_eq!(
            (n, count),
            (last, last),
            "half a transaction, or one is missing"
        );
        let last = last.unsigned_abs();
        // One may have been acknowledged and not counted yet.
        assert!(
            (*before..=after + 1).contains(&last),
            "{before} {last} {after}"
        );
    }
}

async fn branch(stack: &Stack, load: &Load, name: &str) -> Value {
    load.goes_on().await;
    let before = load.counts();
    let path = "/customer/databases/main/branch?wait=60";
    let made = stack
        .operator()
        .post(path, json!({ "name": name }))
        .await
        .ok();
    let after = load.counts();
    assert_eq!(made["state"], "ACTIVE", "{made}");
    check_moment(stack, &made, &before, &after).await;
    load.goes_on().await;
    made
}

async fn under_load(postgres: Postgres) {
    let stack = Stack::start_with(StackConfig::on(postgres));
    let made = stack.operator().create("main").await;
    let mut auto = stack.cli_command(&["db", "limits", "set", "main", "pool_mode=auto"]);
    run(auto.env("TENANTRY_API_KEY", stack.operator_key())).ok();
    let setup = connect(&stack, &made, Arc::default()).await;
    let sql = format!(
        "CREATE TABLE log (w int, n bigint, PRIMARY KEY (w, n)); \
         CREATE TABLE account (w int PRIMARY KEY, n bigint); \
         INSERT INTO account SELECT w, 0 FROM generate_series(0, {}) w",
        WRITERS - 1
    );
    setup.batch_execute(&sql).await.unwrap();
    let heard = Arc::new(AtomicU64::new(0));
    let listener = connect(&stack, &made, heard.clone()).await;
    listener.batch_execute("LISTEN done").await.unwrap();
    let load = Load::begin(&stack, &made).await;

    // Nobody but writers, and one who listens.
    let quiet = branch(&stack, &load, "held").await;
    let info = &quiet["branch"];
    assert_ne!(info["path"], "stream", "{info}");
    eprintln!("branch {postgres:?} held: {info}; {}", load.figures());

    // A session that keeps a temporary table, and a transaction that stays open.
    let pinned = connect(&stack, &made, Arc::default()).await;
    pinned
        .batch_execute("CREATE TEMP TABLE mine AS SELECT 1 AS v")
        .await
        .unwrap();
    let open = connect(&stack, &made, Arc::default()).await;
    open.batch_execute("BEGIN; CREATE TABLE unseen (v int)")
        .await
        .unwrap();
    let busy = branch(&stack, &load, "streamed").await;
    let info = &busy["branch"];
    assert_eq!(info["path"], "stream", "{info}");
    eprintln!("branch {postgres:?} streamed: {info}; {}", load.figures());
    let row = pinned.query_one("SELECT v FROM mine", &[]).await.unwrap();
    assert_eq!(row.get::<_, i32>(0), 1);
    open.batch_execute("COMMIT").await.unwrap();

    let acknowledged = load.end().await;
    // Every notification once.
    let until = Instant::now() + Duration::from_secs(20);
    while heard.load(Ordering::Relaxed) < acknowledged && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(heard.load(Ordering::Relaxed), acknowledged, "notifications");
    let row = setup
        .query_one("SELECT count(*) FROM log", &[])
        .await
        .unwrap();
    assert_eq!(
        row.get::<_, i64>(0).unsigned_abs(),
        acknowledged,
        "rows of the parent"
    );
    let report = stack.operator().get("/operator/check").await.ok();
    assert_eq!(report["clean"], json!(true), "{report:#}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_branch_of_a_database_under_load_is_one_moment_of_it() {
    under_load(Postgres::System).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_18_a_branch_of_a_database_under_load_is_one_moment_of_it() {
    under_load(Postgres::V18).await;
}
