//! Who may not come in does not: every endpoint of the document with every kind of credential.
//!
//! The endpoints come from the document. One that is not in [`ENDPOINTS`] fails the test, so that
//! nobody adds one without saying who may use it, and with which request that is tried.

#![allow(clippy::unwrap_used, reason = "a test's own code")]

mod kit;

use control::{Issuer, KeySource};
use jsonwebtoken::Algorithm;
use kit::{
    Answer, OPERATOR, Stack,
    signer::{Signer, now},
    text,
};
use reqwest::Method;
use serde_json::{Value, json};

/// Whose token opens an endpoint.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum For {
    /// Nobody's is needed.
    Everybody,
    /// Any that is valid, for what is its own; nothing of others is in the answer.
    Own,
    /// Any of the project, a bound one where it is bound to the database.
    Readers,
    /// Any of the whole project, one that may only read included.
    WholeProject,
    /// One with full access to the whole project.
    Owner,
    /// The operator's.
    Operator,
}

/// Every endpoint: who may use it, and a body that would do something, or a query that begins
/// with `?`.
const ENDPOINTS: &[(&str, &str, For, &str)] = &[
    ("GET", "/healthz", For::Everybody, ""), // a load balancer has no token
    ("GET", "/readyz", For::Everybody, ""),  // the same
    ("GET", "/openapi.json", For::Everybody, ""), // says nothing of anybody
    // How to get the first token, and the next one: it proves the anonymous secret in its body.
    ("POST", "/customer/anonymous-register", For::Everybody, ""),
    ("POST", "/customer/anonymous-refresh", For::Everybody, ""),
    ("POST", "/sql", For::Everybody, ""), // proves a password in a header: tests/neon.rs
    ("GET", "/customer/me", For::Own, ""),
    ("GET", "/projects", For::Own, ""),
    ("GET", "/customer/databases", For::Own, ""),
    ("POST", "/customer/databases", For::Owner, "{}"),
    ("GET", "/customer/databases/{database}", For::Readers, ""),
    (
        "DELETE",
        "/customer/databases",
        For::Owner,
        "?prefix=db-&dry_run=false",
    ),
    (
        "PATCH",
        "/customer/databases/{database}",
        For::Owner,
        r#"{"expires": "1h"}"#,
    ),
    ("DELETE", "/customer/databases/{database}", For::Owner, ""),
    (
        "POST",
        "/customer/databases/{database}/undelete",
        For::Owner,
        "{}",
    ),
    (
        "POST",
        "/customer/databases/{database}/suspend",
        For::Owner,
        "{}",
    ),
    (
        "POST",
        "/customer/databases/{database}/resume",
        For::Owner,
        "{}",
    ),
    (
        "POST",
        "/customer/databases/{database}/reset-password",
        For::Owner,
        "{}",
    ),
    (
        "GET",
        "/customer/databases/{database}/credentials",
        For::Readers,
        "",
    ), // 410 for all
    (
        "POST",
        "/customer/databases/{database}/credentials",
        For::Readers,
        "{}",
    ), // 410 for all
    (
        "GET",
        "/customer/databases/{database}/limits",
        For::Readers,
        "",
    ),
    (
        "PUT",
        "/customer/databases/{database}/limits",
        For::Owner,
        r#"{"server_connections_max": 1}"#,
    ),
    (
        "PATCH",
        "/customer/databases/{database}/limits",
        For::Owner,
        r#"{"server_connections_max": 1}"#,
    ),
    (
        "GET",
        "/customer/databases/{database}/observability",
        For::Readers,
        "",
    ),
    (
        "GET",
        "/customer/databases/{database}/metrics",
        For::Readers,
        "",
    ),
    (
        "GET",
        "/customer/databases/{database}/logs",
        For::Readers,
        "",
    ),
    (
        "GET",
        "/customer/databases/{database}/logs/stats",
        For::Readers,
        "",
    ),
    // As TenantsDB has them.
    ("GET", "/tenants/{database}/metrics", For::Readers, ""),
    ("GET", "/tenants/{database}/logs", For::Readers, ""),
    ("GET", "/tenants/{database}/logs/stats", For::Readers, ""),
    // As the role `read`, whoever asks.
    (
        "GET",
        "/customer/databases/{database}/inspect/{what}",
        For::Readers,
        "",
    ),
    (
        "GET",
        "/customer/databases/{database}/migrations",
        For::Readers,
        "",
    ),
    (
        "GET",
        "/customer/databases/{database}/explain/{statement}",
        For::Readers,
        "",
    ),
    // As the role that the token allows.
    (
        "POST",
        "/customer/databases/{database}/sql",
        For::Readers,
        r#"{"query": "SELECT 1"}"#,
    ),
    (
        "POST",
        "/customer/databases/{database}/connect-token",
        For::Owner,
        "{}",
    ),
    (
        "GET",
        "/customer/databases/{database}/connect-keys",
        For::WholeProject,
        "",
    ),
    (
        "POST",
        "/customer/databases/{database}/connect-keys",
        For::Owner,
        "{}",
    ),
    (
        "DELETE",
        "/customer/databases/{database}/connect-keys/{credential}",
        For::Owner,
        "",
    ),
    (
        "GET",
        "/customer/databases/{database}/access",
        For::WholeProject,
        "",
    ),
    (
        "DELETE",
        "/customer/databases/{database}/access/{credential}",
        For::Owner,
        "",
    ),
    (
        "GET",
        "/customer/databases/{database}/users",
        For::WholeProject,
        "",
    ),
    (
        "POST",
        "/customer/databases/{database}/users",
        For::Owner,
        r#"{"username": "eve"}"#,
    ),
    (
        "PATCH",
        "/customer/databases/{database}/users/{username}",
        For::Owner,
        r#"{"client_connections_max": 1}"#,
    ),
    (
        "POST",
        "/customer/databases/{database}/users/{username}/reset-password",
        For::Owner,
        "{}",
    ),
    (
        "DELETE",
        "/customer/databases/{database}/users/{username}",
        For::Owner,
        "",
    ),
    (
        "POST",
        "/customer/databases/{database}/dump-file",
        For::Owner,
        "{}",
    ),
    (
        "POST",
        "/customer/databases/{database}/branch",
        For::Owner,
        r#"{"name": "$name"}"#,
    ),
    (
        "POST",
        "/customer/databases/{database}/backups",
        For::Owner,
        "{}",
    ),
    (
        "GET",
        "/customer/databases/{database}/backups",
        For::Readers,
        "",
    ),
    (
        "GET",
        "/customer/databases/{database}/moments",
        For::Readers,
        "",
    ),
    (
        "POST",
        "/customer/databases/{database}/backups/erase",
        For::Owner,
        "{}",
    ),
    (
        "GET",
        "/customer/databases/{database}/backup-schedule",
        For::Readers,
        "",
    ),
    (
        "PUT",
        "/customer/databases/{database}/backup-schedule",
        For::Owner,
        r#"{"every": "6h"}"#,
    ),
    ("GET", "/customer/backups", For::WholeProject, ""),
    ("GET", "/customer/backups/{backup}", For::Readers, ""),
    ("DELETE", "/customer/backups/{backup}", For::Owner, ""),
    (
        "POST",
        "/customer/backups/{backup}/verify",
        For::Owner,
        "{}",
    ),
    (
        "POST",
        "/customer/backups/{backup}/restore",
        For::Owner,
        "{}",
    ),
    ("GET", "/customer/restores/{restore}", For::Readers, ""),
    // Branches are other databases.
    (
        "GET",
        "/customer/databases/{database}/branches",
        For::WholeProject,
        "",
    ),
    (
        "POST",
        "/customer/databases/{database}/reset",
        For::Owner,
        "{}",
    ),
    // Looks at both, changes neither.
    (
        "GET",
        "/customer/databases/{database}/diff",
        For::WholeProject,
        "",
    ),
    ("GET", "/customer/alerts", For::WholeProject, ""),
    ("GET", "/customer/alerts/rules", For::WholeProject, ""),
    (
        "POST",
        "/customer/alerts/rules",
        For::Owner,
        r#"{"kind": "latency"}"#,
    ),
    ("DELETE", "/customer/alerts/rules/{rule}", For::Owner, ""),
    ("GET", "/customer/alerts/target", For::WholeProject, ""),
    (
        "POST",
        "/customer/alerts/target",
        For::Owner,
        r#"{"url": "https://8.8.8.8/"}"#,
    ),
    ("DELETE", "/customer/alerts/target", For::Owner, ""),
    // 409: no webhook is there.
    ("POST", "/customer/alerts/test", For::Owner, "{}"),
    ("GET", "/customer/tokens", For::WholeProject, ""),
    ("POST", "/customer/tokens", For::Owner, "{}"),
    ("DELETE", "/customer/tokens/{credential}", For::Owner, ""),
    (
        "POST",
        "/customer/claim",
        For::Owner,
        r#"{"code": "$code"}"#,
    ),
    (
        "POST",
        "/customer/adopt-anonymous-databases/preflight",
        For::Owner,
        r#"{"anonymous_customer_id": "$anonymous", "anonymous_secret": "$secret"}"#,
    ),
    (
        "POST",
        "/customer/adopt-anonymous-databases",
        For::Owner,
        r#"{"anonymous_customer_id": "$anonymous", "anonymous_secret": "$secret", "database_ids": ["$theirs"]}"#,
    ),
    ("GET", "/operator/drills", For::Operator, ""),
    ("POST", "/operator/drills", For::Operator, "{}"),
    ("POST", "/operator/claim-codes", For::Operator, "{}"),
    ("GET", "/operator/claim-codes", For::Operator, ""),
    (
        "DELETE",
        "/operator/claim-codes/{credential}",
        For::Operator,
        "",
    ),
    ("GET", "/operator/check", For::Operator, ""),
    ("GET", "/operator/fleet", For::Operator, ""),
    ("GET", "/metrics", For::Operator, ""),
    // What was done to the project, by whom: for whoever sees all of it.
    ("GET", "/audit-logs", For::WholeProject, ""),
    ("GET", "/operator/audit", For::Operator, ""),
];

/// A user that every database of this test has.
const USER: &str = "ann";

fn document() -> Value {
    serde_json::from_str(&control::openapi_document()).unwrap()
}

/// What stands for the parts of a path.
#[derive(Clone)]
struct Target {
    database: String,
    /// A backup of the database, and a restore of it.
    backup: [String; 2],
    /// A key of the database.
    key: String,
    /// A token of the project.
    token: String,
    /// A rule of alerts of the project.
    rule: String,
    /// A claim code, and its id.
    code: (String, String),
    /// An anonymous project: its anonymous id, its secret and a database of it.
    anonymous: [String; 3],
}

impl Target {
    fn fill(&self, path: &str) -> String {
        let credential = if path.contains("{database}") {
            &self.key
        } else if path.contains("claim-codes") {
            &self.code.1
        } else {
            &self.token
        };
        let filled = path
            .replace("{database}", &self.database)
            .replace("{username}", USER)
            .replace("{what}", "tables")
            .replace("{statement}", "00112233aabbccdd")
            .replace("{rule}", &self.rule)
            .replace("{backup}", &self.backup[0])
            .replace("{restore}", &self.backup[1])
            .replace("{credential}", credential);
        assert!(
            !filled.contains('{'),
            "a part of {path} that this test does not know"
        );
        filled
    }
}

async fn ask(
    stack: &Stack,
    (method, path, _, body): (&str, &str, For, &str),
    target: &Target,
    token: Option<&str>,
) -> Answer {
    let (query, body) = match body.strip_prefix('?') {
        Some(_) => (body, ""),
        None => ("", body),
    };
    let url = format!("{}{}{query}", stack.base, target.fill(path));
    let method = Method::from_bytes(method.as_bytes()).unwrap();
    let mut request = stack.http.request(method, url);
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    if !body.is_empty() {
        let [anonymous, secret, theirs] = &target.anonymous;
        let body = body
            .replace("$name", &format!("of-{}", target.database))
            .replace("$code", &target.code.0)
            .replace("$anonymous", anonymous)
            .replace("$secret", secret)
            .replace("$theirs", theirs);
        assert!(
            !body.contains('$'),
            "a part of {body} that this test does not know"
        );
        request = request.body(body);
    }
    let response = request.send().await.unwrap();
    if path == "/metrics" && response.status().is_success() {
        return Answer {
            status: response.status(),
            headers: response.headers().clone(),
            body: Value::Null,
        };
    }
    Answer::read(response).await
}

async fn target(stack: &Stack, owner: &str, name: &str) -> Target {
    let database = text(&stack.create(owner, name).await["id"]);
    let path = format!("/customer/databases/{database}/connect-keys");
    let key = text(&stack.post(&path, owner, json!({})).await.ok()["id"]);
    let users = format!("/customer/databases/{database}/users");
    let user = json!({ "username": USER });
    stack.post(&users, owner, user).await.ok();
    let token = stack.post("/customer/tokens", owner, json!({})).await.ok();
    let rule = json!({ "kind": "errors", "database": database });
    let rule = stack.post("/customer/alerts/rules", owner, rule).await.ok();
    let code = stack.post("/operator/claim-codes", OPERATOR, json!({}));
    let code = code.await.ok();
    let third = stack.register().await;
    let theirs = stack.create(&text(&third["token"]), "theirs").await;
    let theirs = text(&theirs["id"]);
    let catalog = stack.catalog().await;
    // As if it had been made, and restored: nothing is stored.
    let backup = [format!("bkp_{database}"), format!("rst_{database}")];
    let sql = "WITH made AS (
            INSERT INTO backup (id, tenant_id, project_id, tenant_name, kind, state, due_at)
            SELECT $2, id, project_id, name, 'manual', 'ready', NULL FROM tenant WHERE id = $1)
        INSERT INTO restore (id, backup_id, tenant_id, project_id, mode, state, wants_safety, time_max_s)
        SELECT $3, $2, id, project_id, 'in_place', 'done', true, 60 FROM tenant WHERE id = $1";
    let values: [&(dyn tokio_postgres::types::ToSql + Sync); 3] =
        [&database, &backup[0], &backup[1]];
    catalog.execute(sql, &values).await.unwrap();
    Target {
        backup,
        rule: text(&rule["id"]),
        code: (text(&code["code"]), text(&code["id"])),
        anonymous: [
            text(&third["anonymous_id"]),
            text(&third["anonymous_secret"]),
            theirs,
        ],
        database,
        key,
        token: text(&token["id"]),
    }
}

/// The one endpoint that takes tokens of an issuer, beside `/sql`.
const ISSUED: &str = "/customer/databases/{database}/sql";

/// A token of the issuer, good for reading and writing one database until then.
fn issued(signer: &Signer, database: &str, until: i64) -> String {
    signer.sign(&json!({
        "iss": "https://auth.example", "aud": "tenantry", "exp": until, "sub": "somebody",
        "tenant": database, "scope": "read write",
    }))
}

/// A stack that believes what `signer` signed.
async fn with_issuer(signer: &Signer, keys: &scratch::Scratch) -> Stack {
    let path = keys.join("jwks.json");
    let set = json!({ "keys": [signer.public()] });
    std::fs::write(&path, set.to_string()).unwrap();
    let issuer = Issuer {
        name: "https://auth.example".to_owned(),
        audience: "tenantry".to_owned(),
        keys: KeySource::File(path),
        tenant_claim: "tenant".to_owned(),
        scope_claim: "scope".to_owned(),
        admin: false,
        projects: None,
    };
    Stack::with(move |config| config.sql_issuers = vec![issuer.clone()]).await
}

async fn token(stack: &Stack, owner: &str, body: Value) -> String {
    text(&stack.post("/customer/tokens", owner, body).await.ok()["token"])
}

fn bound_to(database: &str, access: &str) -> Value {
    let scope = json!({ "databases": [{ "id": database, "access": access }] });
    json!({ "scope_json": scope.to_string() })
}

#[test]
fn every_endpoint_of_the_document_is_covered() {
    let document = document();
    let mut routes = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys() {
            routes.push((method.to_uppercase(), path.clone()));
        }
    }
    for (method, path) in &routes {
        let known = ENDPOINTS
            .iter()
            .filter(|own| own.0 == method && own.1 == path);
        assert_eq!(
            known.count(),
            1,
            "who may use {method} {path}? Say so in ENDPOINTS"
        );
    }
    assert_eq!(
        routes.len(),
        ENDPOINTS.len(),
        "each endpoint of the list is there"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_reaches_what_is_not_theirs() {
    let (signer, keys) = (Signer::new("k", Algorithm::EdDSA), scratch::Scratch::new());
    let stack = with_issuer(&signer, &keys).await;
    let document = document();
    let owner = stack.token().await;
    let mine = target(&stack, &owner, "db-mine").await;
    let beside = target(&stack, &owner, "db-beside").await;
    let other = stack.token().await;
    // Another project's token does not tell what there is from what there is not.
    let nothing = Target {
        database: "zzzzzzzzzzzz".to_owned(),
        backup: ["bkp_zzzzzzzzzzzz", "rst_zzzzzzzzzzzz"].map(str::to_owned),
        key: "crd_zzzzzzzzzzzz".to_owned(),
        rule: "alr_zzzzzzzzzzzz".to_owned(),
        token: "crd_zzzzzzzzzzzz".to_owned(),
        ..mine.clone()
    };
    let reader = token(&stack, &owner, json!({ "access": "ro" })).await;
    let elsewhere = token(&stack, &owner, bound_to(&beside.database, "rw")).await;
    let bound_reader = token(&stack, &owner, bound_to(&mine.database, "ro")).await;
    let bound_writer = token(&stack, &owner, bound_to(&mine.database, "rw")).await;
    let (expired, revoked) = (stack.token().await, stack.token().await);
    let [own_expired, own_revoked] = [
        token(&stack, &owner, json!({})).await,
        token(&stack, &owner, json!({})).await,
    ];
    let hour = now() + 3600;
    let [issued_here, issued_beside, issued_expired] = [
        issued(&signer, &mine.database, hour),
        issued(&signer, &beside.database, hour),
        issued(&signer, &mine.database, now() - 3600),
    ];
    // It is a good one, where such tokens are good for something.
    let sql = ISSUED.replace("{database}", &mine.database);
    let select = json!({"query": "SELECT 1"});
    stack.post(&sql, &issued_here, select).await.ok();
    let catalog = stack.catalog().await;
    for (token, change) in [
        (&expired, "expires_at = now() - interval '1 second'"),
        (&own_expired, "expires_at = now() - interval '1 second'"),
        (&revoked, "revoked_at = now()"),
        (&own_revoked, "revoked_at = now()"),
    ] {
        let sql = format!("UPDATE credential SET {change} WHERE token_hash = $1");
        let hash = control::token_hash(token);
        assert_eq!(catalog.execute(&sql, &[&hash.as_slice()]).await.unwrap(), 1);
    }

    // Everything but when credentials were used.
    let snapshot = async || {
        let sql = "SELECT json_build_array(
            (SELECT json_agg(t ORDER BY id) FROM tenant t),
            (SELECT json_agg(p ORDER BY id) FROM project p),
            (SELECT json_agg(c ORDER BY id) FROM claim_code c),
            (SELECT json_agg(l ORDER BY tenant_id, set_by) FROM tenant_limits l),
            (SELECT json_agg(s ORDER BY credential_id, tenant_id) FROM credential_scope s),
            (SELECT json_agg(u ORDER BY tenant_id, id) FROM tenant_user u),
            (SELECT json_agg(b ORDER BY id) FROM backup b),
            (SELECT json_agg(b ORDER BY tenant_id) FROM backup_key b),
            (SELECT json_agg(b ORDER BY tenant_id) FROM backup_schedule b),
            (SELECT json_agg(r ORDER BY id) FROM restore r),
            (SELECT json_agg(r ORDER BY id) FROM alert_rule r),
            (SELECT json_agg(t ORDER BY project_id) FROM alert_target t),
            (SELECT json_agg(to_jsonb(c) - 'last_used_at' - 'last_used_from' ORDER BY id)
             FROM credential c))::text";
        catalog
            .query_one(sql, &[])
            .await
            .unwrap()
            .get::<_, String>(0)
    };
    let before = snapshot().await;
    for endpoint in ENDPOINTS {
        let (method, path, whose, _) = *endpoint;
        if whose == For::Everybody {
            continue;
        }
        let responses = &document["paths"][path][method.to_lowercase()]["responses"];
        let ask = async |token: Option<&str>| {
            let answer = ask(&stack, *endpoint, &mine, token).await;
            let status = answer.status.as_u16().to_string();
            let documented = answer.status.is_success() || responses[&status].is_object();
            assert!(
                documented,
                "{method} {path}: {status} is not in the document"
            );
            answer
        };
        for token in [None, Some("nonsense"), Some(&*revoked), Some(&*own_revoked)] {
            ask(token).await.error(401, "invalid_token");
        }
        for token in [&*expired, &*own_expired] {
            ask(Some(token)).await.error(401, "expired_token");
        }
        // An issuer's tokens are for SQL at one database, and nothing anywhere else.
        if path == ISSUED {
            let elsewhere = ask(Some(&issued_beside)).await;
            elsewhere.error(403, "token_wrong_database");
            let late = ask(Some(&issued_expired)).await;
            late.error(401, "expired_token");
        } else {
            for token in [&issued_here, &issued_beside, &issued_expired] {
                ask(Some(token)).await.error(401, "invalid_token");
            }
        }
        if whose == For::Operator {
            for token in [&*owner, &*reader, &*bound_writer] {
                ask(Some(token)).await.error(403, "operator_only");
            }
            continue;
        }
        // Of another project.
        if path.contains('{') {
            let code = if path.contains("{database}") {
                "database_not_found"
            } else if path.contains("{backup}") {
                "backup_not_found"
            } else if path.contains("{restore}") {
                "restore_not_found"
            } else if path.contains("{rule}") {
                "alert_rule_not_found"
            } else {
                "token_not_found"
            };
            let mut theirs = ask(Some(&*other)).await.error(404, code);
            let none = self::ask(&stack, *endpoint, &nothing, Some(&*other)).await;
            let mut none = none.error(404, code);
            for body in [&mut theirs, &mut none] {
                body["request_id"] = Value::Null;
            }
            assert_eq!(theirs, none);
        }
        // Of this project, for less than this.
        let refused: &[(&str, &str)] = match whose {
            For::Everybody | For::Operator | For::Own => &[],
            For::Readers => &[(&elsewhere, "not_in_scope")],
            For::WholeProject => &[
                (&elsewhere, "scoped_token"),
                (&bound_reader, "scoped_token"),
                (&bound_writer, "scoped_token"),
            ],
            For::Owner => &[
                (&elsewhere, "scoped_token"),
                (&reader, "read_only_token"),
                (&bound_reader, "read_only_token"),
                (&bound_writer, "scoped_token"),
            ],
        };
        for (token, code) in refused {
            ask(Some(token)).await.error(403, code);
        }
    }
    assert_eq!(
        snapshot().await,
        before,
        "a refused request changes nothing"
    );

    // Another project's own lists show nothing of this one.
    let listed = stack.get("/customer/databases?all=true", &other).await.ok();
    assert_eq!(listed, json!([]));
    let project = stack.get("/customer/me", &owner).await.ok()["id"].clone();
    let theirs = format!("/customer/databases?project_id={}", text(&project));
    stack.get(&theirs, &other).await.error(400, "invalid_field");
    let into = json!({ "project_id": project, "name": "planted" });
    let planted = stack
        .post("/customer/databases", &other, into.clone())
        .await;
    planted.error(400, "invalid_field");
    // The operator may.
    let seen = stack.get(&theirs, OPERATOR).await.ok();
    assert_eq!(seen.as_array().unwrap().len(), 2, "{seen}");
    let planted = stack.post("/customer/databases", OPERATOR, into).await.ok();
    assert_eq!(planted["project_id"], project);
    stack.stop().await;
}

/// The requests of the other test are refused because of who asks: with the right token each is understood.
#[tokio::test(flavor = "multi_thread")]
async fn the_same_requests_are_taken_from_those_who_may() {
    let stack = Stack::with(|config| config.limits.anonymous_databases_max = 1000).await;
    let owner = stack.token().await;
    for (number, endpoint) in ENDPOINTS.iter().enumerate() {
        let (method, path, whose, _) = *endpoint;
        if whose == For::Everybody {
            continue;
        }
        let mine = target(&stack, &owner, &format!("db-{number}")).await;
        let token = match whose {
            For::Operator => OPERATOR.to_owned(),
            For::Readers => token(&stack, &owner, bound_to(&mine.database, "ro")).await,
            For::Own | For::WholeProject => token(&stack, &owner, json!({ "access": "ro" })).await,
            For::Everybody | For::Owner => owner.clone(),
        };
        let answer = ask(&stack, *endpoint, &mine, Some(&token)).await;
        // What it asks for may be there already, or be gone, or have been asked by nobody so far.
        let is_understood = answer.status.is_success()
            || [409, 410].contains(&answer.status.as_u16())
            || answer.body["code"] == "statement_not_found";
        assert!(is_understood, "{method} {path}: {answer:?}");
        let gone = format!("/customer/tokens/{}", mine.token);
        stack.delete(&gone, &owner).await;
    }
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn registration_can_be_switched_off() {
    let stack = Stack::with(|config| config.anonymous_registration = false).await;
    let url = format!("{}/customer/anonymous-register", stack.base);
    let answer = stack.send(stack.http.post(url)).await;
    answer.error(403, "registration_off");
    stack.stop().await;
}
