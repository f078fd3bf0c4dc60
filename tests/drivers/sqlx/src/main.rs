//! sqlx: prepares everything, a pool that looks at connections before it lends them, a listener.
//! See `tests/drivers/README.md`. The library reads PGOPTIONS itself.

use std::{collections::HashMap, env, time::Duration};

use futures_util::TryStreamExt as _;
use md5::{Digest as _, Md5};
use sha2::Sha256;
use sqlx::{
    AssertSqlSafe, Connection as _, Executor as _, PgConnection, PgPool, Postgres, QueryBuilder,
    Row as _,
    postgres::{PgConnectOptions, PgListener, PgPoolCopyExt as _, PgPoolOptions, PgSslMode},
    types::{
        Json, Uuid,
        chrono::{DateTime, NaiveDate, TimeZone as _, Utc},
    },
};

type Outcome<T = ()> = Result<T, sqlx::Error>;

fn options() -> PgConnectOptions {
    let var = |name| env::var(name).expect(name);
    PgConnectOptions::new_without_pgpass()
        .host(&var("PGHOST_"))
        .port(var("PGPORT_").parse().expect("a port"))
        .username(&var("PGUSER_"))
        .password(&var("PGPASSWORD_"))
        .database("postgres")
        .ssl_mode(PgSslMode::VerifyFull)
        .ssl_root_cert(var("ROOT_CERT"))
}

fn ok(step: &str) {
    println!("ok {step}");
}

/// Exactly this SQLSTATE comes.
#[track_caller]
fn fails<T>(outcome: Outcome<T>, code: &str) {
    let error = outcome
        .err()
        .unwrap_or_else(|| panic!("no error came, not even {code}"));
    let told = error.as_database_error().and_then(|error| error.code());
    assert_eq!(told.as_deref(), Some(code), "{error:?}");
}

fn row(i: i32) -> String {
    format!("row {i} ü \\ \" ' {}", i64::from(i) * 7919 % 1000)
}

fn checksum(count: i32) -> String {
    let mut sum = Md5::new();
    for i in 0..count {
        sum.update(format!("{i}:{}\n", row(i)));
    }
    hex(&sum.finalize())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The same sum, made by the server over (id, v).
fn server_checksum(table: &str) -> AssertSqlSafe<String> {
    AssertSqlSafe(format!(
        "select md5(coalesce(string_agg(id || ':' || v || E'\\n', '' order by id), '')) from {table}"
    ))
}

async fn ways_in() -> Outcome {
    for (name, mode) in [
        ("require", PgSslMode::Require),
        ("verify-full", PgSslMode::VerifyFull),
    ] {
        let mut c = PgConnection::connect_with(&options().ssl_mode(mode)).await?;
        assert_eq!(
            sqlx::query_scalar::<_, i32>("select 40 + 2")
                .fetch_one(&mut c)
                .await?,
            42
        );
        c.close().await?;
        ok(name);
    }
    let refused = PgConnection::connect_with(&options().ssl_mode(PgSslMode::Disable)).await;
    let refused = refused
        .err()
        .expect("plain text was let in")
        .to_string()
        .to_lowercase();
    assert!(
        ["tls", "ssl", "encrypt"]
            .iter()
            .any(|word| refused.contains(word)),
        "{refused}"
    );
    ok("plain-refused");
    Ok(())
}

async fn types(pool: &PgPool) -> Outcome {
    #[derive(sqlx::FromRow, Debug, PartialEq)]
    struct All {
        large: i64,
        real: f64,
        words: String,
        raw: Vec<u8>,
        flag: bool,
        nothing: Option<String>,
        numbers: Vec<Option<i32>>,
        moment: DateTime<Utc>,
        day: NaiveDate,
        key: Uuid,
        facts: Json<HashMap<String, Vec<i32>>>,
    }
    let given = All {
        large: 1 << 62,
        real: 1.5,
        words: "naïve € 🐘 \\ ' \"".into(),
        raw: vec![0, 255, 10],
        flag: true,
        nothing: None,
        numbers: vec![Some(1), None, Some(3)],
        moment: Utc.with_ymd_and_hms(2024, 2, 29, 12, 0, 0).unwrap() + Duration::from_micros(1),
        day: NaiveDate::from_ymd_opt(2024, 2, 29).expect("a day"),
        key: Uuid::from_u128(7),
        facts: Json(HashMap::from([("ü".to_owned(), vec![1, 2])])),
    };
    for _ in 0..3 {
        let got: All = sqlx::query_as(
            "select $1 as large, $2 as real, $3 as words, $4 as raw, $5 as flag, $6 as nothing, $7 as numbers,
                    $8 as moment, $9 as day, $10 as key, $11 as facts",
        )
        .bind(given.large)
        .bind(given.real)
        .bind(&given.words)
        .bind(&given.raw)
        .bind(given.flag)
        .bind(&given.nothing)
        .bind(&given.numbers)
        .bind(given.moment)
        .bind(given.day)
        .bind(given.key)
        .bind(&given.facts)
        .fetch_one(pool)
        .await?;
        assert_eq!(got, given);
    }
    // A type of one's own, which the library looks up in the catalog.
    #[derive(sqlx::Type, Debug, PartialEq)]
    #[sqlx(type_name = "sqlx_mood", rename_all = "lowercase")]
    enum Mood {
        Sad,
        Happy,
    }
    pool.execute("create type sqlx_mood as enum ('sad', 'happy')")
        .await?;
    let mood: Mood = sqlx::query_scalar("select $1")
        .bind(Mood::Happy)
        .fetch_one(pool)
        .await?;
    assert_eq!(mood, Mood::Happy);
    let moods: Vec<Mood> = sqlx::query_scalar("select array['sad', 'happy']::sqlx_mood[]")
        .fetch_one(pool)
        .await?;
    assert_eq!(moods, [Mood::Sad, Mood::Happy]);
    ok("types");
    Ok(())
}

async fn prepared(pool: &PgPool) -> Outcome {
    for i in 0..200 {
        let got: i32 = sqlx::query_scalar("select $1 * 2")
            .bind(i)
            .fetch_one(pool)
            .await?;
        assert_eq!(got, i * 2);
    }
    // More texts than the library keeps (100): it closes the oldest.
    let mut c = pool.acquire().await?;
    for round in 0..2 {
        for i in 0..150 {
            let text = AssertSqlSafe(format!("select $1 + {i}"));
            let got: i32 = sqlx::query_scalar(text)
                .bind(round)
                .fetch_one(&mut *c)
                .await?;
            assert_eq!(got, i + round);
        }
    }
    c.clear_cached_statements().await?;
    fails(
        sqlx::query("select * from nowhere where id = $1")
            .bind(1)
            .execute(&mut *c)
            .await,
        "42P01",
    );
    assert_eq!(
        sqlx::query_scalar::<_, i32>("select $1 * 2")
            .bind(4)
            .fetch_one(&mut *c)
            .await?,
        8
    );
    ok("prepared");
    Ok(())
}

async fn batch(pool: &PgPool) -> Outcome {
    pool.execute("create table sqlx_t (id int primary key, v text)")
        .await?;
    for start in (0..3000).step_by(1000) {
        let mut insert = QueryBuilder::<Postgres>::new("insert into sqlx_t ");
        insert.push_values(start..start + 1000, |mut one, i| {
            one.push_bind(i).push_bind(row(i));
        });
        assert_eq!(insert.build().execute(pool).await?.rows_affected(), 1000);
    }
    let sum: String = sqlx::query_scalar(server_checksum("sqlx_t"))
        .fetch_one(pool)
        .await?;
    assert_eq!(sum, checksum(3000));
    // Several statements in one message.
    let many: Vec<_> =
        sqlx::raw_sql("select 1 as n; update sqlx_t set v = v where id < 5; select 2 as n")
            .fetch_many(pool)
            .try_collect()
            .await?;
    let seen: Vec<_> = many
        .iter()
        .map(|one| {
            one.as_ref().either(
                |done| done.rows_affected() as i32,
                |row| row.get::<i32, _>(0),
            )
        })
        .collect();
    assert_eq!(seen, [1, 1, 5, 2, 1]);
    // Left in the middle: the rest is read before the connection is lent on.
    for _ in 0..3 {
        let mut rows =
            sqlx::query_scalar::<_, i32>("select id from sqlx_t order by id").fetch(pool);
        assert_eq!(rows.try_next().await?, Some(0));
    }
    ok("batch");
    Ok(())
}

async fn transaction(pool: &PgPool) -> Outcome {
    let mut tx = pool
        .begin_with("begin isolation level serializable")
        .await?;
    let level: String = sqlx::query_scalar("show transaction_isolation")
        .fetch_one(&mut *tx)
        .await?;
    assert_eq!(level, "serializable");
    sqlx::query("delete from sqlx_t").execute(&mut *tx).await?;
    let mut nested = tx.begin().await?;
    fails(
        sqlx::query("insert into sqlx_t values (1, 'a'), (1, 'b')")
            .execute(&mut *nested)
            .await,
        "23505",
    );
    fails(sqlx::query("select 1").execute(&mut *nested).await, "25P02");
    nested.rollback().await?;
    let count = "select count(*) from sqlx_t";
    assert_eq!(
        sqlx::query_scalar::<_, i64>(count)
            .fetch_one(&mut *tx)
            .await?,
        0
    );
    assert_eq!(
        sqlx::query_scalar::<_, i64>(count).fetch_one(pool).await?,
        3000
    );
    // Dropped: rolled back when the connection is used next.
    drop(tx);
    assert_eq!(
        sqlx::query_scalar::<_, i64>(count).fetch_one(pool).await?,
        3000
    );
    ok("transaction");
    Ok(())
}

async fn errors(pool: &PgPool) -> Outcome {
    for (statement, code) in [
        ("select * from nowhere", "42P01"),
        ("insert into sqlx_t values (1, 'x')", "23505"),
        ("select 1/0", "22012"),
        ("selekt", "42601"),
    ] {
        fails(sqlx::query(statement).execute(pool).await, code);
        fails(pool.execute(sqlx::raw_sql(statement)).await, code);
        assert_eq!(
            sqlx::query_scalar::<_, i32>("select 1")
                .fetch_one(pool)
                .await?,
            1
        );
    }
    ok("errors");
    Ok(())
}

/// The library has no cancel: it closes the connection of a statement that was given up.
async fn cancel(pool: &PgPool) -> Outcome {
    let mut c = PgConnection::connect_with(&options()).await?;
    let sleeping = c.execute("select pg_sleep(60)");
    assert!(
        tokio::time::timeout(Duration::from_millis(300), sleeping)
            .await
            .is_err()
    );
    drop(c);
    // A limit of the server is told as what it is, and the connection goes on.
    let mut tx = pool.begin().await?;
    tx.execute("set local statement_timeout = 100").await?;
    fails(tx.execute("select pg_sleep(60)").await, "57014");
    tx.rollback().await?;
    assert_eq!(
        sqlx::query_scalar::<_, i32>("select 5")
            .fetch_one(pool)
            .await?,
        5
    );
    ok("cancel");
    Ok(())
}

async fn copy(pool: &PgPool) -> Outcome {
    const COUNT: i32 = 100_000;
    let text: String = (0..COUNT)
        .map(|i| format!("{i}\t{}\n", row(i).replace('\\', "\\\\")))
        .collect();
    pool.execute("create table sqlx_copy (id int, v text)")
        .await?;
    let mut into = pool.copy_in_raw("copy sqlx_copy from stdin").await?;
    for part in text.as_bytes().chunks(100_000) {
        into.send(part).await?;
    }
    assert_eq!(into.finish().await?, COUNT as u64);
    let sum: String = sqlx::query_scalar(server_checksum("sqlx_copy"))
        .fetch_one(pool)
        .await?;
    assert_eq!(sum, checksum(COUNT));
    let out = pool
        .copy_out_raw("copy (select * from sqlx_copy order by id) to stdout")
        .await?;
    let back = out.try_fold(Vec::new(), async |mut all, part| {
        all.extend_from_slice(&part);
        Ok(all)
    });
    assert!(
        back.await? == text.as_bytes(),
        "what came back is not what was sent"
    );
    let mut into = pool.copy_in_raw("copy sqlx_copy from stdin").await?;
    into.send(&b"1\tx\n"[..]).await?;
    into.abort("changed my mind").await?;
    let count: i64 = sqlx::query_scalar("select count(*) from sqlx_copy")
        .fetch_one(pool)
        .await?;
    assert_eq!(count, i64::from(COUNT));
    ok("copy");
    Ok(())
}

async fn big_value(pool: &PgPool) -> Outcome {
    let big = "0123456789abcdef".repeat(4 << 20);
    let (sum, back): (String, String) =
        sqlx::query_as("select encode(sha256(v::bytea), 'hex'), v from (select $1::text) x(v)")
            .bind(&big)
            .fetch_one(pool)
            .await?;
    assert_eq!(sum, hex(&Sha256::digest(&big)));
    assert!(back == big, "what came back is not what was sent");
    ok("big-value");
    Ok(())
}

async fn notify(pool: &PgPool) -> Outcome {
    let mut listener = PgListener::connect_with(pool).await?;
    listener.listen("sqlx_c").await?;
    for i in 0..20 {
        sqlx::query("select pg_notify('sqlx_c', $1)")
            .bind(format!("hello {i}"))
            .execute(pool)
            .await?;
    }
    for i in 0..20 {
        let got = tokio::time::timeout(Duration::from_secs(20), listener.recv())
            .await
            .expect("nothing came")?;
        assert_eq!(
            (got.channel(), got.payload()),
            ("sqlx_c", format!("hello {i}").as_str())
        );
    }
    listener.unlisten_all().await?;
    ok("notify");
    Ok(())
}

async fn reconnect(pool: &PgPool) -> Outcome {
    let mut tx = pool.begin().await?;
    tx.execute("set local role none").await?;
    fails(
        tx.execute("select pg_terminate_backend(pg_backend_pid())")
            .await,
        "57P01",
    );
    drop(tx);
    let many = (0..40).map(|i| async move {
        let got: i64 = sqlx::query_scalar("select $1 + count(*) from sqlx_t")
            .bind(i)
            .fetch_one(pool)
            .await?;
        assert_eq!(got, i + 3000);
        Ok(())
    });
    futures_util::future::join_all(many)
        .await
        .into_iter()
        .collect::<Outcome>()?;
    ok("reconnect");
    Ok(())
}

#[tokio::main]
async fn main() -> Outcome {
    ways_in().await?;
    let pool = PgPoolOptions::new()
        .max_connections(4)
        .acquire_timeout(Duration::from_secs(20))
        .connect_with(options())
        .await?;
    types(&pool).await?;
    prepared(&pool).await?;
    batch(&pool).await?;
    transaction(&pool).await?;
    errors(&pool).await?;
    cancel(&pool).await?;
    copy(&pool).await?;
    big_value(&pool).await?;
    notify(&pool).await?;
    reconnect(&pool).await?;
    fails(
        PgConnection::connect_with(&options().password("wrong")).await,
        "28P01",
    );
    ok("wrong-password");
    pool.execute("drop table sqlx_t, sqlx_copy").await?;
    pool.execute("drop type sqlx_mood").await?;
    pool.close().await;
    println!("all sqlx 0.9.0");
    Ok(())
}
