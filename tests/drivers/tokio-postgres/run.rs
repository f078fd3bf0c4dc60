//! tokio-postgres over rustls: what Rust applications use. See `tests/drivers/README.md`.

use std::{env, process::ExitCode, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _, TryStreamExt as _, stream};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
};
use tokio_postgres::{
    AsyncMessage, Client, Config,
    config::{ChannelBinding, SslMode, SslNegotiation},
    error::SqlState,
};
use tokio_postgres_rustls::MakeRustlsConnect;

/// Where to connect.
struct Address {
    host: String,
    port: String,
    user: String,
    password: String,
    root: String,
}

/// Runs all of it.
///
/// # Panics
///
/// When something is not as PostgreSQL would have it.
#[tokio::main]
pub(crate) async fn main() -> ExitCode {
    let var = |name| env::var(name).expect(name);
    run(&Address {
        host: var("PGHOST_"),
        port: var("PGPORT_"),
        user: var("PGUSER_"),
        password: var("PGPASSWORD_"),
        root: var("ROOT_CERT"),
    })
    .await;
    println!("all tokio-postgres");
    ExitCode::SUCCESS
}

fn config(address: &Address) -> Config {
    let mut config = Config::new();
    config
        .host(&address.host)
        .port(address.port.parse().unwrap())
        .user(&address.user)
        .password(&address.password)
        .dbname("postgres")
        .connect_timeout(Duration::from_secs(20))
        .ssl_mode(SslMode::Require);
    if let Ok(options) = env::var("PGOPTIONS") {
        config.options(options);
    }
    config
}

/// rustls verifies chain and name unless told otherwise, so every way here is `verify-full`.
fn tls(address: &Address) -> MakeRustlsConnect {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(&address.root).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"postgresql".to_vec()];
    MakeRustlsConnect::new(config)
}

async fn connect(address: &Address, config: &Config) -> Client {
    let (client, connection) = config.connect(tls(address)).await.unwrap();
    tokio::spawn(connection);
    client
}

async fn run(address: &Address) {
    ways_in(address).await;
    let mut client = connect(address, &config(address)).await;
    types_and_prepared(&client).await;
    changed_under_a_statement(address, &client).await;
    transactions_and_errors(&mut client).await;
    cancel(address, &client).await;
    copy(&client).await;
    big_value(&client).await;
    notifications(address, &client).await;
    reconnect(address).await;
    wrong_password(address).await;
}

async fn ways_in(address: &Address) {
    let plain = config(address);
    let mut bound = plain.clone();
    bound.channel_binding(ChannelBinding::Require);
    let mut direct = bound.clone();
    direct.ssl_negotiation(SslNegotiation::Direct);
    for (name, way) in [
        ("verify-full", plain),
        ("channel-binding", bound),
        ("direct-tls", direct),
    ] {
        let client = connect(address, &way).await;
        let row = client.query_one("select 42", &[]).await.unwrap();
        assert_eq!(row.get::<_, i32>(0), 42);
        println!("ok {name}");
    }
    let mut open = config(address);
    open.ssl_mode(SslMode::Disable);
    let error = open
        .connect(tokio_postgres::NoTls)
        .await
        .err()
        .expect("plain text was let in");
    assert!(error.as_db_error().is_some(), "{error:?}");
    println!("ok plain-refused");
}

async fn types_and_prepared(client: &Client) {
    let statement = client
        .prepare("select $1::int8, $2::text, $3::bytea, $4::bool, $5::float8, $6::int4[], $7::text")
        .await
        .unwrap();
    for i in 0..50_i64 {
        let row = client
            .query_one(
                &statement,
                &[
                    &i,
                    &"naïve € 🐘",
                    &&b"\x00\xff"[..],
                    &true,
                    &1.5_f64,
                    &vec![1, 2],
                    &None::<&str>,
                ],
            )
            .await
            .unwrap();
        assert_eq!(row.get::<_, i64>(0), i);
        assert_eq!(row.get::<_, &str>(1), "naïve € 🐘");
        assert_eq!(row.get::<_, &[u8]>(2), b"\x00\xff");
        assert_eq!(row.get::<_, Vec<i32>>(5), [1, 2]);
        assert_eq!(row.get::<_, Option<&str>>(6), None);
    }
    println!("ok types\nok prepared");
    // Many at once on one connection: the library sends them without waiting.
    let queries = (0..200_i64).map(|i| async move {
        let row = client
            .query_one("select $1::int8 * 2", &[&i])
            .await
            .unwrap();
        assert_eq!(row.get::<_, i64>(0), i * 2);
    });
    futures_util::future::join_all(queries).await;
    println!("ok pipeline");
}

/// A driver that described a statement reads its rows as described. When they would be others now, it
/// has to be told, whichever server connection the statement runs on.
async fn changed_under_a_statement(address: &Address, client: &Client) {
    client
        .batch_execute("create table tokio_changing as select 7 as n")
        .await
        .unwrap();
    let statement = client
        .prepare("select * from tokio_changing")
        .await
        .unwrap();
    let row = client.query_one(&statement, &[]).await.unwrap();
    assert_eq!(row.get::<_, i32>(0), 7);
    let other = connect(address, &config(address)).await;
    other
        .batch_execute("alter table tokio_changing alter n type text using 'changed'")
        .await
        .unwrap();
    let error = client.query_one(&statement, &[]).await.unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::FEATURE_NOT_SUPPORTED));
    let row = client
        .query_one("select * from tokio_changing", &[])
        .await
        .unwrap();
    assert_eq!(row.get::<_, &str>(0), "changed");
    client
        .batch_execute("drop table tokio_changing")
        .await
        .unwrap();
    println!("ok changed-table");
}

async fn transactions_and_errors(client: &mut Client) {
    client
        .batch_execute("create table tokio_t (id int primary key)")
        .await
        .unwrap();
    let transaction = client.transaction().await.unwrap();
    transaction
        .execute("insert into tokio_t values (1)", &[])
        .await
        .unwrap();
    let error = transaction
        .execute("insert into tokio_t values (1)", &[])
        .await
        .unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::UNIQUE_VIOLATION));
    transaction.rollback().await.unwrap();
    let count = client
        .query_one("select count(*) from tokio_t", &[])
        .await
        .unwrap();
    assert_eq!(count.get::<_, i64>(0), 0);
    let error = client
        .query("select * from nowhere", &[])
        .await
        .unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::UNDEFINED_TABLE));
    // The same session goes on.
    client.batch_execute("drop table tokio_t").await.unwrap();
    println!("ok transaction\nok errors");
}

async fn cancel(address: &Address, client: &Client) {
    let token = client.cancel_token();
    let sleeping = client.batch_execute("select pg_sleep(60)");
    let canceller = async {
        // Again and again: the first may come before the statement does, and must then do nothing.
        loop {
            token.cancel_query(tls(address)).await.unwrap();
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    let error = tokio::select! {
        ended = sleeping => ended.unwrap_err(),
        () = canceller => unreachable!("it loops"),
    };
    assert_eq!(error.code(), Some(&SqlState::QUERY_CANCELED));
    println!("ok cancel");
}

async fn copy(client: &Client) {
    client
        .batch_execute("create temp table tokio_copy (id int, v text)")
        .await
        .unwrap();
    let sink = client.copy_in("copy tokio_copy from stdin").await.unwrap();
    let mut sink = std::pin::pin!(sink);
    let mut sent = Vec::new();
    for i in 0..100_000 {
        let line = format!("{i}\trow {i}\n");
        sent.extend_from_slice(line.as_bytes());
        sink.send(Bytes::from(line)).await.unwrap();
    }
    assert_eq!(sink.finish().await.unwrap(), 100_000);
    let got: Vec<Bytes> = client
        .copy_out("copy (select * from tokio_copy order by id) to stdout")
        .await
        .unwrap()
        .boxed()
        .try_collect()
        .await
        .unwrap();
    assert!(got.concat() == sent, "what came back is not what was sent");
    println!("ok copy");
}

async fn big_value(client: &Client) {
    let big = "0123456789abcdef".repeat(4 << 20);
    let row = client.query_one("select $1::text", &[&big]).await.unwrap();
    assert!(
        row.get::<_, &str>(0) == big,
        "what came back is not what was sent"
    );
    println!("ok big-value");
}

async fn notifications(address: &Address, sender: &Client) {
    let (listener, mut connection) = config(address).connect(tls(address)).await.unwrap();
    let messages = stream::poll_fn(move |context| connection.poll_message(context));
    let heard = tokio::spawn(async move {
        messages
            .try_filter_map(async |message| match message {
                AsyncMessage::Notification(note) => {
                    Ok(Some(format!("{} {}", note.channel(), note.payload())))
                }
                _ => Ok(None),
            })
            .take(20)
            .try_collect::<Vec<_>>()
            .await
            .unwrap()
    });
    listener.batch_execute("listen tokio_c").await.unwrap();
    for i in 0..20 {
        let payload = format!("hello {i}");
        sender
            .execute("select pg_notify('tokio_c', $1)", &[&payload])
            .await
            .unwrap();
    }
    let heard = tokio::time::timeout(Duration::from_secs(20), heard).await;
    let wanted: Vec<_> = (0..20).map(|i| format!("tokio_c hello {i}")).collect();
    assert_eq!(heard.expect("they come").unwrap(), wanted);
    println!("ok notify");
}

async fn reconnect(address: &Address) {
    let client = connect(address, &config(address)).await;
    client.batch_execute("set role none").await.unwrap();
    let ended = client.batch_execute("select pg_terminate_backend(pg_backend_pid())");
    let error = ended.await.unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::ADMIN_SHUTDOWN), "{error:?}");
    let client = connect(address, &config(address)).await;
    let row = client.query_one("select 6", &[]).await.unwrap();
    assert_eq!(row.get::<_, i32>(0), 6);
    println!("ok reconnect");
}

async fn wrong_password(address: &Address) {
    let mut wrong = config(address);
    wrong.password("wrong");
    let error = wrong.connect(tls(address)).await.err().expect("let in");
    assert_eq!(error.code(), Some(&SqlState::INVALID_PASSWORD));
    println!("ok wrong-password");
}
