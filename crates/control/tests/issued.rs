//! Tokens of an issuer for SQL over HTTP, with a key server on loopback that can change its keys, fail
//! and hang.

#![allow(clippy::unwrap_used, reason = "a test's own code")]

mod kit;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use control::{Issuer, KeySource};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use kit::{
    Answer, Stack,
    signer::{Signer, now},
    text,
};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

const NAME: &str = "https://auth.example";
const AUDIENCE: &str = "tenantry";

/// What the key server does.
#[derive(Clone)]
enum Keys {
    Serve(String),
    Status(u16),
    Endless,
    Redirect,
}

/// A key server, and how often it was asked.
#[derive(Clone)]
struct KeyServer {
    keys: Arc<Mutex<Keys>>,
    asked: Arc<AtomicUsize>,
    url: String,
}

impl KeyServer {
    async fn start(keys: Keys) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Self {
            keys: Arc::new(Mutex::new(keys)),
            asked: Arc::default(),
            url: format!("http://{}/jwks.json", listener.local_addr().unwrap()),
        };
        let serving = server.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let serving = serving.clone();
                tokio::spawn(async move {
                    let mut request = [0; 4096];
                    // The client's whole head comes in one piece.
                    let _ = stream.read(&mut request).await;
                    serving.asked.fetch_add(1, Ordering::SeqCst);
                    let keys = serving.keys.lock().unwrap().clone();
                    let _ = stream.write_all(answer(&keys).as_bytes()).await;
                    if matches!(keys, Keys::Endless) {
                        while stream.write_all(&[b' '; 4096]).await.is_ok() {}
                    }
                });
            }
        });
        server
    }

    fn set(&self, keys: Keys) {
        *self.keys.lock().unwrap() = keys;
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

fn answer(keys: &Keys) -> String {
    match keys {
        Keys::Serve(body) => format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        ),
        Keys::Status(status) => {
            format!("HTTP/1.1 {status} No\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        }
        Keys::Endless => "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n".to_owned(),
        Keys::Redirect => "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\n\
             content-length: 0\r\nconnection: close\r\n\r\n"
            .to_owned(),
    }
}

fn set_of(signers: &[&Signer]) -> Keys {
    let keys: Vec<_> = signers.iter().map(|signer| signer.public()).collect();
    Keys::Serve(json!({ "keys": keys }).to_string())
}

/// A stack that believes one issuer, and a database.
struct Issued {
    stack: Stack,
    server: KeyServer,
    token: String,
    id: String,
}

impl Issued {
    async fn start(
        keys: Keys,
        change: impl Fn(&mut control::Config) + Send + Sync + 'static,
    ) -> Self {
        let server = KeyServer::start(keys).await;
        let issuer = Issuer {
            name: NAME.to_owned(),
            audience: AUDIENCE.to_owned(),
            keys: KeySource::url(&server.url).unwrap(),
            tenant_claim: "tenant".to_owned(),
            scope_claim: "scope".to_owned(),
            admin: false,
            projects: None,
        };
        let stack = Stack::with(move |config| {
            config.sql_issuers = vec![issuer.clone()];
            // Tests do not wait.
            config.limits.jwks_every = Duration::from_millis(300);
            change(config);
        })
        .await;
        let token = stack.token().await;
        let made = stack.create(&token, "a").await;
        let id = text(&made["id"]);
        let table = json!({"query": "CREATE TABLE t (a int)"});
        let issued = Self {
            stack,
            server,
            token,
            id,
        };
        issued.ask(&issued.token, table).await.ok();
        issued
    }

    /// Good ones; what is `null` in `change` is left out.
    fn claims(&self, change: Value) -> Value {
        let mut claims = json!({
            "iss": NAME, "aud": AUDIENCE, "exp": now() + 300, "sub": "somebody",
            "tenant": self.id, "scope": "read",
        });
        let all = claims.as_object_mut().unwrap();
        for (name, value) in change.as_object().unwrap() {
            if value.is_null() {
                all.remove(name);
            } else {
                all.insert(name.clone(), value.clone());
            }
        }
        claims
    }

    async fn ask(&self, token: &str, body: Value) -> Answer {
        let path = format!("/customer/databases/{}/sql", self.id);
        self.stack.post(&path, token, body).await
    }

    async fn select(&self, token: &str) -> Answer {
        self.ask(token, json!({"query": "SELECT current_user::text"}))
            .await
    }
}

/// Waits for a condition, at most 20 s.
async fn until(mut condition: impl AsyncFnMut() -> bool) {
    let limit = tokio::time::Instant::now() + Duration::from_secs(20);
    while !condition().await {
        assert!(tokio::time::Instant::now() < limit, "it did not come true");
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_allows_what_its_scope_says_at_its_own_database() {
    let signers = [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA]
        .map(|algorithm| Signer::new(&format!("{algorithm:?}"), algorithm));
    let issued = Issued::start(set_of(&signers.each_ref()), |_| {}).await;
    for signer in &signers {
        let token = signer.sign(&issued.claims(json!({})));
        let answer = issued.select(&token).await.ok();
        assert_eq!(
            answer["rows"],
            json!([["tenantry_read"]]),
            "{:?}",
            signer.algorithm
        );
    }
    assert_eq!(issued.server.asked(), 1, "keys are kept");

    let insert = json!({"query": "INSERT INTO t VALUES (1)"});
    let [_, _, signer] = &signers;
    let reads = signer.sign(&issued.claims(json!({})));
    let writes = signer.sign(&issued.claims(json!({"scope": "read write"})));
    let refused = issued.ask(&reads, insert.clone()).await.ok();
    assert_eq!(refused["error"]["code"], "42501");
    let done = issued.ask(&writes, insert).await.ok();
    assert_eq!(done["row_count"], 1, "{done}");
    let create = json!({"query": "CREATE TABLE u (a int)"});
    assert_eq!(
        issued.ask(&writes, create.clone()).await.ok()["error"]["code"],
        "42501"
    );
    // A role is asked for, and no higher one.
    let as_role = |role: &str| json!({"query": "SELECT current_user::text", "role": role});
    assert_eq!(
        issued.ask(&writes, as_role("read")).await.ok()["rows"],
        json!([["tenantry_read"]])
    );
    issued
        .ask(&writes, as_role("admin"))
        .await
        .error(403, "token_scope");
    issued
        .ask(&reads, as_role("write"))
        .await
        .error(403, "token_scope");
    issued
        .ask(&reads, as_role("nobody"))
        .await
        .error(400, "invalid_field");
    // Not unless the operator said so.
    let admin = signer.sign(&issued.claims(json!({"scope": "admin"})));
    issued.ask(&admin, create).await.error(403, "token_scope");

    // By name it is not the database of the token, and another one is not either.
    let other = issued.stack.create(&issued.token, "other").await;
    for key in ["a", "other", &text(&other["id"]), "zzzzzzzzzzzz"] {
        let path = format!("/customer/databases/{key}/sql");
        let body = json!({"query": "SELECT 1"});
        let answer = issued.stack.post(&path, &writes, body).await;
        answer.error(403, "token_wrong_database");
    }
    // Nothing else is open to it.
    for (method, path) in [
        (Method::GET, "/customer/databases".to_owned()),
        (Method::GET, format!("/customer/databases/{}", issued.id)),
        (Method::DELETE, format!("/customer/databases/{}", issued.id)),
        (Method::GET, "/customer/me".to_owned()),
    ] {
        let request = issued.stack.request(method, &path, &writes);
        issued.stack.send(request).await.error(401, "invalid_token");
    }
    let path = format!("/customer/databases/{}/sql", issued.id);
    let keyed = issued
        .stack
        .request(Method::POST, &path, &writes)
        .header("Idempotency-Key", "k")
        .json(&json!({"query": "SELECT 1"}));
    issued.stack.send(keyed).await.error(400, "invalid_field");

    // The driver's endpoint: the token instead of a password.
    let neon = async |user: &str, token: &str| {
        let request = issued
            .stack
            .request(Method::POST, "/sql", token)
            .header(
                "Neon-Connection-String",
                format!("postgresql://{user}@h/postgres"),
            )
            .json(&json!({"query": "SELECT current_user::text AS u"}));
        issued.stack.send(request).await
    };
    let own = |role: &str| format!("{}.{role}", issued.id);
    assert_eq!(
        neon(&own("read"), &writes).await.ok()["rows"],
        json!([{"u": "tenantry_read"}])
    );
    neon(&own("admin"), &writes).await.error(403, "token_scope");
    neon(&own("write"), &reads).await.error(403, "token_scope");
    let other = format!("{}.read", text(&other["id"]));
    neon(&other, &reads)
        .await
        .error(403, "token_wrong_database");
    neon("nobody", &reads)
        .await
        .error(403, "token_wrong_database");
    neon(&own("read"), "a.b.c")
        .await
        .error(401, "token_refused");
    neon(&own("read"), &issued.token)
        .await
        .error(401, "token_refused");
    issued.stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_that_is_not_plainly_right_is_refused() {
    let (rsa, ed) = (
        Signer::new("r", Algorithm::RS256),
        Signer::new("e", Algorithm::EdDSA),
    );
    let issued = Issued::start(set_of(&[&rsa, &ed]), |_| {}).await;
    let good = issued.claims(json!({}));
    issued.select(&ed.sign(&good)).await.ok();

    let wrong_claims = [
        (json!({"iss": "https://evil.example"}), 401, "token_refused"),
        (json!({"iss": [NAME]}), 401, "token_refused"),
        (json!({"iss": null}), 401, "token_refused"),
        (json!({"aud": "another"}), 401, "token_refused"),
        (json!({"aud": null}), 401, "token_refused"),
        (json!({"exp": null}), 401, "token_refused"),
        (json!({"exp": "soon"}), 401, "token_refused"),
        (json!({"exp": now() - 60}), 401, "expired_token"),
        (json!({"nbf": now() + 60}), 401, "token_refused"),
        (json!({"nbf": "soon"}), 401, "token_refused"),
        (json!({"tenant": null}), 403, "token_wrong_database"),
        (
            json!({"tenant": "zzzzzzzzzzzz"}),
            403,
            "token_wrong_database",
        ),
        (json!({"scope": null}), 403, "token_scope"),
        (json!({"scope": "admin"}), 403, "token_scope"),
    ];
    for (change, status, code) in wrong_claims {
        let answer = issued
            .select(&ed.sign(&issued.claims(change.clone())))
            .await;
        assert_eq!(
            (answer.status.as_u16(), &answer.body["code"]),
            (status, &json!(code)),
            "{change}"
        );
    }
    // Clocks may be a little apart; several audiences may be named.
    for change in [
        json!({"exp": now() - 10}),
        json!({"nbf": now() + 10}),
        json!({"aud": ["x", AUDIENCE]}),
    ] {
        issued.select(&ed.sign(&issued.claims(change))).await.ok();
    }

    // Signatures. The names of keys are the issuer's, the keys are not.
    let stranger = Signer::new("e", Algorithm::EdDSA);
    let unknown = Signer::new("x", Algorithm::EdDSA);
    let crossed = Signer {
        kid: "r".to_owned(),
        ..Signer::new("r", Algorithm::EdDSA)
    };
    let token = ed.sign(&good);
    let (head, rest) = token.split_once('.').unwrap();
    let (payload, signature) = rest.split_once('.').unwrap();
    let encoded = |value: &Value| {
        use base64::Engine as _;
        base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(value.to_string())
    };
    let none = encoded(&json!({"alg": "none", "kid": "e"}));
    let more = encoded(&issued.claims(json!({"scope": "write"})));
    let critical = {
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = Some("e".to_owned());
        header.crit = Some(vec!["exp".to_owned()]);
        jsonwebtoken::encode(&header, &good, &ed.key).unwrap()
    };
    let nameless = jsonwebtoken::encode(&Header::new(Algorithm::EdDSA), &good, &ed.key).unwrap();
    // The confusion of old: the public key as the secret of an HMAC.
    let hmac = {
        let mut header = Header::new(Algorithm::HS256);
        header.kid = Some("r".to_owned());
        let public = rsa.public().to_string();
        let key = EncodingKey::from_secret(public.as_bytes());
        jsonwebtoken::encode(&header, &good, &key).unwrap()
    };
    for (what, token) in [
        ("another key of the same name", stranger.sign(&good)),
        ("an unknown key", unknown.sign(&good)),
        ("a key of another algorithm", crossed.sign(&good)),
        ("none", format!("{none}.{payload}.")),
        (
            "none, with a signature",
            format!("{none}.{payload}.{signature}"),
        ),
        ("changed claims", format!("{head}.{more}.{signature}")),
        ("no signature", format!("{head}.{payload}.")),
        ("critical headers", critical),
        ("no name of a key", nameless),
        ("HMAC", hmac),
        ("nonsense", "a.b.c".to_owned()),
        ("too long", format!("{head}.{payload}.{}", "A".repeat(9000))),
    ] {
        let answer = issued.select(&token).await;
        assert_eq!(
            (answer.status.as_u16(), &answer.body["code"]),
            (401, &json!("token_refused")),
            "{what}"
        );
    }
    // Two in one request are none.
    let path = format!("/customer/databases/{}/sql", issued.id);
    let twice = issued
        .stack
        .request(Method::POST, &path, &token)
        .header("Authorization", format!("Bearer {token}"))
        .json(&json!({"query": "SELECT 1"}));
    issued.stack.send(twice).await.error(401, "invalid_token");
    // The state of the database counts as for all.
    issued
        .stack
        .post("/customer/databases/a/suspend", &issued.token, json!({}))
        .await
        .ok();
    issued.select(&token).await.error(409, "wrong_state");
    issued.stack.stop().await;

    // Where no issuer is named, no such token is anything.
    let plain = Stack::start().await;
    let request = plain
        .request(Method::POST, "/customer/databases/a/sql", &token)
        .json(&json!({"query": "SELECT 1"}));
    plain.send(request).await.error(401, "invalid_token");
    plain.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_change_and_issuers_fail() {
    let (first, second) = (
        Signer::new("1", Algorithm::ES256),
        Signer::new("2", Algorithm::ES256),
    );
    // Not there at first.
    let issued = Issued::start(Keys::Status(503), |config| {
        config.limits.jwks_fresh = Duration::from_millis(600);
        config.limits.jwks_stale_max = Duration::from_secs(3);
    })
    .await;
    let old = first.sign(&issued.claims(json!({})));
    let new = second.sign(&issued.claims(json!({})));
    for broken in [
        Keys::Status(503),
        Keys::Redirect,
        Keys::Endless,
        Keys::Serve("<html>".to_owned()),
        Keys::Serve("{\"keys\": []}".to_owned()),
    ] {
        issued.server.set(broken);
        let before = issued.server.asked();
        until(async || {
            issued.select(&old).await.error(401, "issuer_unreachable");
            issued.server.asked() > before
        })
        .await;
    }

    // It comes, and then it changes its key.
    issued.server.set(set_of(&[&first]));
    until(async || issued.select(&old).await.status == 200).await;
    issued.server.set(set_of(&[&second]));
    until(async || issued.select(&new).await.status == 200).await;
    issued.select(&old).await.error(401, "token_refused");

    // However many unknown keys are named, it is asked no more often than that.
    let before = issued.server.asked();
    let began = tokio::time::Instant::now();
    for _ in 0..30 {
        issued.select(&old).await.error(401, "token_refused");
    }
    let asked = issued.server.asked() - before;
    let most = began.elapsed().as_millis() / 300 + 1;
    assert!(asked as u128 <= most, "{asked} times, {most} at most");

    // While it is away, the keys it had are used on, but not for ever.
    issued.server.set(Keys::Status(500));
    let before = issued.server.asked();
    until(async || {
        let answer = issued.select(&new).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        issued.server.asked() > before
    })
    .await;
    until(async || issued.select(&new).await.status == 401).await;
    issued.select(&new).await.error(401, "issuer_unreachable");
    issued.server.set(set_of(&[&second]));
    until(async || issued.select(&new).await.status == 200).await;
    issued.stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn admin_is_for_whoever_the_operator_says_and_keys_may_lie_in_a_file() {
    let signer = Signer::new("1", Algorithm::EdDSA);
    let dir = scratch::Scratch::new();
    let path = dir.path().join("keys.json");
    let Keys::Serve(keys) = set_of(&[&signer]) else {
        unreachable!()
    };
    std::fs::write(&path, keys).unwrap();
    let issued = Issued::start(Keys::Status(500), move |config| {
        config.sql_issuers[0].admin = true;
        config.sql_issuers[0].keys = KeySource::File(path.clone());
    })
    .await;
    let token = signer.sign(&issued.claims(json!({"scope": "admin"})));
    let made = issued
        .ask(&token, json!({"query": "CREATE TABLE u (a int)"}))
        .await
        .ok();
    assert_eq!(made["command"], "CREATE TABLE");
    assert_eq!(issued.server.asked(), 0);
    issued.stack.stop().await;
}

/// An issuer of some projects: a database of another one, or one that moved there, is none to it.
#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_of_some_projects_is_believed_for_those_alone() {
    let signer = Signer::new("1", Algorithm::EdDSA);
    let projects = Arc::new(Mutex::new(None));
    let named = projects.clone();
    let mut issued = Issued::start(set_of(&[&signer]), move |config| {
        config.sql_issuers[0].projects = named.lock().unwrap().clone();
    })
    .await;
    let owner = issued.stack.register().await;
    let theirs = text(&owner["token"]);
    let other = text(&issued.stack.create(&theirs, "a").await["id"]);
    let me = issued.stack.get("/customer/me", &issued.token).await.ok();
    let own: model::ProjectId = text(&me["id"]).parse().unwrap();

    let sql = async |issued: &Issued, id: &str, claim: &str| {
        let token = signer.sign(&issued.claims(json!({"tenant": claim, "scope": "read write"})));
        let path = format!("/customer/databases/{id}/sql");
        let ours = issued
            .stack
            .post(&path, &token, json!({"query": "SELECT 1"}))
            .await;
        let neon = issued
            .stack
            .request(Method::POST, "/sql", &token)
            .header(
                "Neon-Connection-String",
                format!("postgresql://{id}.read@h/postgres"),
            )
            .json(&json!({"query": "SELECT 1"}));
        [ours, issued.stack.send(neon).await]
    };
    let id = issued.id.clone();
    // Of all, while nothing else is said.
    for key in [&id, &other] {
        for answer in sql(&issued, key, key).await {
            answer.ok();
        }
    }

    issued.stack.stop_control().await;
    *projects.lock().unwrap() = Some(vec![own.clone()]);
    issued.stack.start_control().await;
    for answer in sql(&issued, &id, &id).await {
        answer.ok();
    }
    // Another project's, one that is not there, and the token of one at the other: one answer.
    let nowhere = "zzzzzzzzzzzz".to_owned();
    let mut answers = Vec::new();
    for (key, claim) in [
        (&other, &other),
        (&nowhere, &nowhere),
        (&id, &other),
        (&other, &id),
    ] {
        for answer in sql(&issued, key, claim).await {
            let mut body = answer.error(403, "token_wrong_database");
            body.as_object_mut().unwrap().remove("request_id");
            answers.push(body);
        }
    }
    assert!(
        answers.iter().all(|body| body == &answers[0]),
        "{answers:?}"
    );

    // Whose it is counts now, and not when the token was made.
    let adopt = json!({
        "anonymous_customer_id": owner["anonymous_id"],
        "anonymous_secret": owner["anonymous_secret"],
        "database_ids": [other],
    });
    let renamed = format!("/customer/databases/{other}");
    let rename = issued
        .stack
        .request(Method::PATCH, &renamed, &theirs)
        .json(&json!({"name": "moves"}));
    issued.stack.send(rename).await.ok();
    issued
        .stack
        .post("/customer/adopt-anonymous-databases", &issued.token, adopt)
        .await
        .ok();
    for answer in sql(&issued, &other, &other).await {
        answer.ok();
    }
    issued.stack.stop().await;
}
