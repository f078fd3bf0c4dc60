//! A server that somebody else runs: TLS as its DSN says, and nothing of theirs touched.

#![allow(clippy::unwrap_used, reason = "a test")]

mod kit;

use kit::{
    MAJORS,
    foreign::{BOSS, Foreign, PASSWORD},
};
use model::{Role, Secret};
use node::{
    ClonePath, Content, Node, NodeError, NodeKey, Template,
    attached::{AttachConfig, AttachError, attach},
    check::{Expected, ExpectedState, FindingKind},
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

/// Everybody by password, from everywhere: what an ordinary server has.
const ORDINARY: &str = "local all all scram-sha-256\nhost all all all scram-sha-256\n";
/// TCP with TLS only.
const TLS_ONLY: &str = "local all all scram-sha-256\nhostssl all all all scram-sha-256\n";

fn config(dsn: &str, key: u8) -> AttachConfig {
    AttachConfig {
        name: "attached".to_owned(),
        dsn: Secret::new(dsn),
        key: NodeKey::from_bytes([key; 32]),
        budget: 10,
        programs: None,
    }
}

async fn connected(dsn: &str) -> Result<Node, AttachError> {
    attach(config(dsn, 7)).await
}

/// A tenant, ready to be used, without the kit's own socket.
async fn create(node: &Node) -> model::Pid {
    let pid = kit::pid();
    node.create_logins(&pid).await.unwrap();
    node.create_database(&pid, &Template::Empty).await.unwrap();
    node.open(&pid).await.unwrap();
    pid
}

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    // Another name than that of what it signs, or libpq takes that for signed by itself.
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, "authority of a test");
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// Chain and key of a server called `localhost`.
fn certificate(by: &CertifiedIssuer<'static, KeyPair>, expired: bool) -> (String, String) {
    let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
    if expired {
        params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    }
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, by).unwrap();
    (certificate.pem(), key.serialize_pem())
}

#[tokio::test(flavor = "multi_thread")]
async fn handshakes_end_as_sslmode_says() {
    let ca = authority();
    let (chain, key) = certificate(&ca, false);
    let server = Foreign::start(15, TLS_ONLY, "", Some((&chain, &key))).await;
    let file = |name: &str, text: &str| {
        let path = server.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (ours, other) = (
        file("ca.pem", &ca.pem()),
        file("other.pem", &authority().pem()),
    );
    let with = |mode: &str, roots: &str| format!("sslmode={mode} sslrootcert='{roots}'");
    for (host, options, works) in [
        ("127.0.0.1", "sslmode=require".to_owned(), true),
        ("127.0.0.1", with("verify-ca", &ours), true),
        ("localhost", with("verify-full", &ours), true),
        ("localhost", format!("sslrootcert='{ours}'"), true),
        ("127.0.0.1", with("require", &other), false),
        ("127.0.0.1", with("verify-ca", &other), false),
        ("localhost", with("verify-full", &other), false),
        ("127.0.0.1", with("verify-full", &ours), false),
        // The system's own roots do not know it.
        ("localhost", "sslmode=verify-full".to_owned(), false),
        ("localhost", "sslmode=verify-ca".to_owned(), false),
        // Plain text is what the server refuses here.
        ("127.0.0.1", "sslmode=disable".to_owned(), false),
    ] {
        let result = connected(&server.dsn(host, &options)).await;
        match result {
            Ok(_) => assert!(works, "{host} {options} was accepted"),
            Err(error) => {
                assert!(!works, "{host} {options}: {error:?}");
                let is_plain = options.ends_with("disable");
                let text = format!("{error:?}");
                let told = if is_plain {
                    "no encryption"
                } else {
                    "certificate"
                };
                assert!(text.to_lowercase().contains(told), "{text}");
                assert!(!text.contains(PASSWORD), "{text}");
            }
        }
    }

    // All the work of a node goes over it: maintenance, visits, the catalog.
    let node = connected(&server.dsn("localhost", &with("verify-full", &ours)))
        .await
        .unwrap();
    node.bootstrap().await.unwrap();
    let pid = create(&node).await;
    let opened = [Expected {
        pid: pid.clone(),
        state: ExpectedState::Open,
    }];
    node.check(&opened).await.unwrap();
    // So do copies, by programs that log in on their own.
    let copy = kit::pid();
    node.create_logins(&copy).await.unwrap();
    let within = std::time::Duration::from_secs(60);
    let report = node.stream_copy(&copy, &pid, Content::All, within).await;
    assert_eq!(report.unwrap().path, ClonePath::Stream);
    let catalog = node.catalog_config();
    let (client, connection) = catalog.config.connect(catalog.tls).await.unwrap();
    tokio::spawn(connection);
    let sql = "SELECT ssl, version FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    let row = client.query_one(sql, &[]).await.unwrap();
    assert_eq!((row.get(0), row.get(1)), (true, "TLSv1.3"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_certificate_and_a_server_without_tls_are_refused() {
    let ca = authority();
    let (chain, key) = certificate(&ca, true);
    let server = Foreign::start(15, TLS_ONLY, "", Some((&chain, &key))).await;
    let roots = server.dir.path().join("ca.pem");
    std::fs::write(&roots, ca.pem()).unwrap();
    for mode in ["verify-ca", "verify-full"] {
        let options = format!("sslmode={mode} sslrootcert='{}'", roots.display());
        let error = connected(&server.dsn("localhost", &options))
            .await
            .unwrap_err();
        assert!(format!("{error:?}").contains("Expired"), "{error:?}");
    }
    connected(&server.dsn("localhost", "sslmode=require"))
        .await
        .unwrap();

    let plain = Foreign::start(18, ORDINARY, "", None).await;
    let error = connected(&plain.dsn("127.0.0.1", "sslmode=require"))
        .await
        .unwrap_err();
    assert!(
        matches!(error, AttachError::Node(NodeError::Unreachable { .. })),
        "{error:?}"
    );
    connected(&plain.dsn("127.0.0.1", "")).await.unwrap();
}

/// The proxy answers SCRAM and nothing else: with a server that asks otherwise nobody could log in, and
/// one that asks nothing lets in everybody.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_ask_tenants_for_scram_is_refused() {
    const GROUPS: &str = "+tenantry_admin,+tenantry_write,+tenantry_read";
    let advised =
        format!("host samerole {GROUPS} all scram-sha-256\nhost all {GROUPS} all reject\n");
    for major in MAJORS {
        let server = Foreign::start(major, ORDINARY, "", None).await;
        let boss = server.boss("postgres").await;
        let node = connected(&server.dsn("127.0.0.1", "")).await.unwrap();
        for (lines, refused) in [
            ("host all all all trust", Some("without their password")),
            ("host all all all password", Some("in plain text")),
            ("", Some("no pg_hba.conf entry")),
            ("host all all all reject", Some("pg_hba.conf rejects")),
            // Two of three roles are forgotten.
            (
                "host all +tenantry_admin all scram-sha-256",
                Some("no pg_hba.conf entry"),
            ),
            // A password that is stored as SCRAM is asked for as SCRAM.
            ("host all all all md5", None),
            (&*advised, None),
        ] {
            server.set_hba(&format!(
                "local all all scram-sha-256\nhost all {BOSS} all scram-sha-256\n{lines}\n"
            ));
            boss.batch_execute("SELECT pg_reload_conf()").await.unwrap();
            kit::until(lines, async || match (node.bootstrap().await, refused) {
                (Ok(()), refused) => refused.is_none(),
                (Err(error), Some(word)) => {
                    let text = error.to_string();
                    // All that is to be put there, as the last case has it.
                    text.contains(word) && advised.lines().all(|line| text.contains(line))
                }
                (Err(_), None) => false,
            })
            .await;
            const LEFT: &str = "SELECT count(*) FROM pg_roles WHERE rolname ~ '^x_'";
            assert_eq!(boss.query_one(LEFT, &[]).await.unwrap().get::<_, i64>(0), 0);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_that_is_missing_is_told_at_once() {
    let conf = "max_connections = 20\nmax_prepared_transactions = 5";
    let server = Foreign::start(15, ORDINARY, conf, None).await;
    let boss = server.boss("postgres").await;
    let make = "CREATE ROLE \"no boss\" LOGIN PASSWORD 'p'; CREATE ROLE tenantry_read LOGIN";
    boss.batch_execute(make).await.unwrap();
    let dsn = format!(
        "host=127.0.0.1 port={} user='no boss' password=p",
        server.port
    );
    let Err(AttachError::Unfit(missing)) = connected(&dsn).await else {
        panic!("accepted")
    };
    for part in [
        "no boss is no superuser (ALTER ROLE \"no boss\" SUPERUSER)",
        "max_connections is 20",
        "max_prepared_transactions is 5",
        "a role tenantry_read that is not ours",
    ] {
        assert!(
            missing.iter().any(|one| one.contains(part)),
            "{part}: {missing:?}"
        );
    }
    assert_eq!(missing.len(), 4, "{missing:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_have_there_stays_as_it_is_and_what_is_open_is_reported() {
    for major in MAJORS {
        let server = Foreign::start(major, ORDINARY, "", None).await;
        let boss = server.boss("postgres").await;
        for sql in [
            "CREATE DATABASE theirs",
            "CREATE ROLE app LOGIN PASSWORD 'app'",
        ] {
            boss.batch_execute(sql).await.unwrap();
        }
        // All that is theirs: databases with their grants, roles, settings.
        const THEIRS: &str = "SELECT array_agg(t ORDER BY t) FROM ( \
               SELECT concat_ws('|', datname, datdba, datacl::text, datconnlimit, datallowconn) \
               FROM pg_database WHERE datname !~ '^(tenantry|x_)' \
               UNION ALL SELECT to_jsonb(a)::text FROM pg_authid a WHERE rolname !~ '^(tenantry_|x_)' \
               UNION ALL SELECT to_jsonb(s)::text FROM pg_db_role_setting s) u (t)";
        let theirs = async || -> Vec<String> {
            let rows = boss.query_one(THEIRS, &[]).await.unwrap();
            rows.get(0)
        };
        let before = theirs().await;
        let node = connected(&server.dsn("127.0.0.1", "")).await.unwrap();
        assert_eq!(theirs().await, before);
        // Attaching alone makes nothing.
        let made = "SELECT count(*) FROM pg_database WHERE datname ~ '^tenantry'";
        assert_eq!(boss.query_one(made, &[]).await.unwrap().get::<_, i64>(0), 0);
        node.bootstrap().await.unwrap();
        let pid = create(&node).await;
        assert_eq!(theirs().await, before, "{major}");
        server
            .connect_as("app", "app", "theirs")
            .await
            .expect("still lets its own in");

        // Every door that a tenant's login really gets through is a finding, and no other.
        let expected = [Expected {
            pid: pid.clone(),
            state: ExpectedState::Open,
        }];
        let all = ["postgres", "template1", "theirs"];
        let doors = async || -> (Vec<String>, Vec<String>) {
            let login = node.server_login(&pid, Role::Read);
            let mut entered = Vec::new();
            for database in all.iter().chain(&["tenantry", "tenantry_template"]) {
                let password = login.password.reveal();
                if server
                    .connect_as(&login.user, password, database)
                    .await
                    .is_ok()
                {
                    entered.push((*database).to_owned());
                }
            }
            let found = node.check(&expected).await.unwrap();
            let public = |kind| kind == FindingKind::PublicAccess;
            assert!(
                found.iter().all(|finding| public(finding.kind)),
                "{found:#?}"
            );
            (
                entered,
                found.into_iter().map(|finding| finding.subject).collect(),
            )
        };
        let (entered, reported) = doors().await;
        assert_eq!(
            (&entered[..], &reported[..]),
            (&all.map(str::to_owned)[..], &entered[..])
        );

        // The operator closes one by privileges …
        boss.batch_execute("REVOKE CONNECT ON DATABASE theirs FROM PUBLIC")
            .await
            .unwrap();
        let (entered, reported) = doors().await;
        assert_eq!(entered, ["postgres", "template1"]);
        assert_eq!(reported, entered);
        // … or all of them by the lines that the finding names.
        let groups = "+tenantry_admin,+tenantry_write,+tenantry_read";
        let lines = |kind: &str, address: &str| {
            format!(
                "{kind} samerole {groups} {address} scram-sha-256\n{kind} all {groups} {address} reject\n"
            )
        };
        server.set_hba(&format!(
            "{}{}{ORDINARY}",
            lines("host", "all"),
            lines("local", "")
        ));
        boss.batch_execute("SELECT pg_reload_conf()").await.unwrap();
        kit::until("reloaded", async || doors().await.0.is_empty()).await;
        assert_eq!(doors().await.1, [""; 0]);
        // The tenant itself still comes in, and so does everybody else.
        let login = node.server_login(&pid, Role::Read);
        let own = server
            .connect_as(&login.user, login.password.reveal(), &login.database)
            .await;
        own.unwrap();
        server.connect_as("app", "app", "postgres").await.unwrap();
        assert_eq!(node.check_tenant(&expected[0]).await.unwrap(), []);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_a_name_of_ours_and_is_not_ours_is_refused_untouched() {
    let server = Foreign::start(18, ORDINARY, "", None).await;
    let boss = server.boss("postgres").await;
    let dsn = server.dsn("127.0.0.1", "");
    let refused = async |key: u8, word: &str| match attach(config(&dsn, key)).await {
        Err(AttachError::Unfit(why)) => assert!(why.iter().any(|w| w.contains(word)), "{why:?}"),
        other => panic!("{word}: {other:?}"),
    };
    for (make, word, unmake) in [
        (
            "CREATE DATABASE tenantry",
            "database tenantry",
            "DROP DATABASE tenantry",
        ),
        (
            "CREATE DATABASE tenantry_template",
            "database tenantry_template",
            "DROP DATABASE tenantry_template",
        ),
        (
            "CREATE ROLE tenantry_admin LOGIN",
            "role tenantry_admin",
            "DROP ROLE tenantry_admin",
        ),
    ] {
        boss.batch_execute(make).await.unwrap();
        refused(7, word).await;
        let kept = "SELECT bool_and(rolcanlogin) FROM pg_roles WHERE rolname = 'tenantry_admin'";
        let kept: Option<bool> = boss.query_one(kept, &[]).await.unwrap().get(0);
        assert_ne!(kept, Some(false), "{make}");
        boss.batch_execute(unmake).await.unwrap();
    }
    // What an interrupted bootstrap leaves is ours.
    boss.batch_execute("CREATE DATABASE tenantry CONNECTION LIMIT 0")
        .await
        .unwrap();
    let node = connected(&dsn).await.unwrap();
    node.bootstrap().await.unwrap();
    node.bootstrap().await.unwrap();
    // And so is what a whole one made, to the same installation only.
    connected(&dsn).await.unwrap().bootstrap().await.unwrap();
    refused(8, "another installation").await;
    // Made between looking and making: still refused.
    boss.batch_execute("COMMENT ON DATABASE tenantry IS 'theirs'")
        .await
        .unwrap();
    let error = node.bootstrap().await.unwrap_err();
    assert!(matches!(error, NodeError::Conflict { .. }), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_of_others_are_never_ended() {
    for major in MAJORS {
        let server = Foreign::start(major, ORDINARY, "", None).await;
        let boss = server.boss("postgres").await;
        boss.batch_execute("CREATE DATABASE theirs").await.unwrap();
        boss.batch_execute("CREATE ROLE app LOGIN PASSWORD 'app'")
            .await
            .unwrap();
        let node = connected(&server.dsn("127.0.0.1", "")).await.unwrap();
        node.bootstrap().await.unwrap();
        let pid = create(&node).await;
        assert_eq!(node.end_lock_hogs(100).await.unwrap(), []);
        let login = node.server_login(&pid, Role::Admin);
        let tenant = server
            .connect_as(&login.user, login.password.reveal(), &login.database)
            .await
            .unwrap();
        tenant
            .batch_execute("SET ROLE tenantry_admin")
            .await
            .unwrap();
        let theirs = server.connect_as("app", "app", "theirs").await.unwrap();
        // Theirs takes many; the tenant's all that are left.
        for (client, locks) in [(&theirs, 500), (&tenant, 1_000_000)] {
            let take =
                format!("SELECT count(pg_advisory_lock(i)) FROM generate_series(1, {locks}) i");
            let taken = client.batch_execute(&take).await;
            assert_eq!(taken.is_ok(), locks == 500, "{taken:?}");
        }
        let ended = node.end_lock_hogs(100).await;
        // With a full table the server itself refuses to end it; the next look does, once there is room.
        if ended.as_ref().is_ok_and(|ended| ended.is_empty()) {
            panic!("the tenant's session was left");
        }
        theirs.batch_execute("SELECT 1").await.unwrap();
        let ours = ended.map(|ended| ended.into_iter().all(|hog| hog.locks > 500));
        assert!(ours.unwrap_or(true));
        theirs
            .batch_execute("SELECT pg_advisory_unlock_all()")
            .await
            .unwrap();
        kit::until("the tenant's session ends", async || {
            let _ = node.end_lock_hogs(100).await;
            tenant.batch_execute("SELECT 1").await.is_err()
        })
        .await;
        theirs.batch_execute("SELECT 1").await.unwrap();
    }
}
