//! `POST /sql`, as the driver `@neondatabase/serverless` speaks it; the driver itself runs in
//! `tests/drivers/neon-serverless`.

#![allow(clippy::unwrap_used, reason = "a test's own code")]

mod kit;

use kit::{Answer, Stack, text};
use reqwest::{Method, header};
use serde_json::{Value, json};

/// A database, and how to reach it over HTTP.
struct Neon {
    stack: Stack,
    user: String,
    password: String,
}

impl Neon {
    async fn start(change: fn(&mut control::Config)) -> Self {
        let stack = Stack::with(change).await;
        let token = stack.token().await;
        let made = stack.create(&token, "a").await;
        Self {
            user: text(&made["admin_user"]),
            password: text(&made["admin_password"]),
            stack,
        }
    }

    fn address(&self) -> String {
        format!(
            "postgresql://{}:{}@localhost/postgres",
            self.user, self.password
        )
    }

    fn request(&self, address: &str) -> reqwest::RequestBuilder {
        let url = format!("{}/sql", self.stack.base);
        self.stack
            .http
            .request(Method::POST, url)
            .header("Neon-Connection-String", address)
    }

    async fn run(&self, headers: &[(&str, &str)], body: Value) -> Answer {
        let mut request = self.request(&self.address());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.stack.send(request.json(&body)).await
    }
}

const RAW: [(&str, &str); 2] = [
    ("Neon-Raw-Text-Output", "true"),
    ("Neon-Array-Mode", "true"),
];

#[tokio::test(flavor = "multi_thread")]
async fn results_have_the_form_that_the_driver_reads() {
    let neon = Neon::start(|config| config.limits.sql_rows_max = 100).await;
    let query = json!({"query": "SELECT $1::int8 AS n, NULL::text AS t, true AS b, '{1,2}'::int[] AS l, '[1]'::json AS j",
        "params": ["7"]});
    let raw = neon.run(&RAW, query.clone()).await.ok();
    assert_eq!(raw["rows"], json!([["7", null, "t", "{1,2}", "[1]"]]));
    assert_eq!(
        raw["fields"][0],
        json!({"name": "n", "dataTypeID": 20, "tableID": 0, "columnID": 0, "dataTypeSize": 8,
            "dataTypeModifier": -1, "format": "text"})
    );
    assert_eq!(
        (&raw["command"], &raw["rowCount"], &raw["rowAsArray"]),
        (&json!("SELECT"), &json!(1), &json!(true))
    );
    let objects = neon.run(&[], query).await.ok();
    assert_eq!(
        objects["rows"],
        json!([{"n": "7", "t": null, "b": true, "l": [1, 2], "j": [1]}])
    );
    assert_eq!(objects["rowAsArray"], false);
    let made = neon
        .run(
            &RAW,
            json!({"query": "CREATE TABLE t (id int PRIMARY KEY)"}),
        )
        .await
        .ok();
    assert_eq!(
        (&made["command"], &made["rowCount"], &made["rows"]),
        (&json!("CREATE"), &Value::Null, &json!([]))
    );

    // A batch is one transaction of the kind that the headers say.
    let batch = json!({"queries": [
        {"query": "SHOW transaction_isolation"},
        {"query": "SHOW transaction_read_only", "params": []},
        {"query": "SHOW transaction_deferrable", "arrayMode": false},
    ]});
    let headers = [
        ("Neon-Array-Mode", "true"),
        ("Neon-Batch-Isolation-Level", "Serializable"),
        ("Neon-Batch-Read-Only", "true"),
        ("Neon-Batch-Deferrable", "true"),
    ];
    let results = neon.run(&headers, batch.clone()).await.ok();
    let rows: Vec<_> = (0..3)
        .map(|i| results["results"][i]["rows"].clone())
        .collect();
    assert_eq!(
        rows,
        [
            json!([["serializable"]]),
            json!([["on"]]),
            json!([{"transaction_deferrable": "on"}])
        ]
    );
    let wrong = [("Neon-Batch-Isolation-Level", "Snapshot")];
    neon.run(&wrong, batch).await.error(400, "invalid_field");
    let half = json!({"queries": [
        {"query": "INSERT INTO t VALUES (1)"}, {"query": "INSERT INTO t VALUES (1)"},
    ]});
    let failed = neon.run(&RAW, half).await;
    assert_eq!(failed.status, 400);
    assert_eq!(
        (&failed.body["code"], &failed.body["constraint"]),
        (&json!("23505"), &json!("t_pkey"))
    );
    assert_eq!(failed.body["severity"], "ERROR");
    let none = neon
        .run(&RAW, json!({"query": "SELECT count(*) FROM t"}))
        .await
        .ok();
    assert_eq!(none["rows"], json!([["0"]]));
    let failed = neon.run(&RAW, json!({"query": "SELECT nope"})).await;
    assert_eq!(
        (
            failed.status.as_u16(),
            &failed.body["code"],
            &failed.body["position"]
        ),
        (400, &json!("42703"), &json!("8"))
    );
    let several = neon.run(&RAW, json!({"query": "SELECT 1; SELECT 2"})).await;
    assert_eq!(several.body["code"], "42601");
    let large = json!({"query": "INSERT INTO t SELECT generate_series(1, 101) RETURNING id"});
    let told = neon.run(&RAW, large).await;
    assert_eq!(
        (told.status.as_u16(), &told.body["code"]),
        (400, &json!("54000"))
    );
    assert!(text(&told.body["message"]).contains("100 rows"));
    let none = neon
        .run(&RAW, json!({"query": "SELECT count(*) FROM t"}))
        .await
        .ok();
    assert_eq!(none["rows"], json!([["0"]]));
    // Names count where they are written with each row.
    let wide: Vec<_> = (0..1600)
        .map(|i| format!("NULL AS {}{i}", "n".repeat(56)))
        .collect();
    let wide = format!("SELECT {} FROM generate_series(1, 100)", wide.join(", "));
    let listed = neon.run(&RAW, json!({ "query": wide })).await;
    assert_eq!(listed.status, 200);
    let objects = neon.run(&[], json!({ "query": wide })).await;
    assert_eq!(objects.body["code"], "54000");
    for wrong in [json!({}), json!({"query": "", "queries": []}), json!([])] {
        let refused = neon.run(&RAW, wrong).await;
        assert_eq!(refused.status, 400, "{}", refused.body);
    }
    neon.stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_gets_in_without_the_password() {
    let neon = Neon::start(|config| config.limits.sql_body_bytes_max = 1000).await;
    let ask = async |address: &str, body: String| {
        let answer = neon.stack.send(neon.request(address).body(body)).await;
        (answer.status.as_u16(), answer.body)
    };
    let right = neon.address();
    let select = r#"{"query": "SELECT 1"}"#.to_owned();
    assert_eq!(ask(&right, select.clone()).await.0, 200);

    // One answer for a wrong password and a database that is not there, before the body is looked at.
    let wrong = right.replace(&neon.password, "wrong");
    let nobody = right.replace(&neon.user, "zzzzzzzzzzzz.admin");
    let large = "x".repeat(5000);
    let mut answers = Vec::new();
    for address in [&wrong, &nobody] {
        for body in [&select, &large] {
            answers.push(ask(address, body.clone()).await);
        }
    }
    assert_eq!(answers[0].0, 400);
    assert_eq!(answers[0].1["code"], "28P01");
    assert!(
        answers.iter().all(|answer| *answer == answers[0]),
        "{answers:?}"
    );
    let (status, body) = ask(&right, large).await;
    assert_eq!((status, &body["code"]), (413, &json!("body_too_large")));

    let secret = "postgresql://u:hunter2@";
    let (status, body) = ask(secret, select.clone()).await;
    assert_eq!((status, &body["code"]), (400, &json!("invalid_field")));
    assert!(!body.to_string().contains("hunter2"), "{body}");
    let url = format!("{}/sql", neon.stack.base);
    let bare = neon.stack.http.post(&url).body(select.clone());
    neon.stack.send(bare).await.error(400, "invalid_field");
    let twice = neon
        .request(&right)
        .header("Neon-Connection-String", &right)
        .body(select);
    neon.stack.send(twice).await.error(400, "invalid_field");
    let get = neon.stack.http.get(&url);
    neon.stack.send(get).await.error(405, "method_not_allowed");
    neon.stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn browsers_may_where_the_operator_says_so() {
    let neon = Neon::start(|config| {
        config.sql_origins = control::Origins::These(vec!["https://app.example".to_owned()]);
    })
    .await;
    let url = format!("{}/sql", neon.stack.base);
    let preflight = async |path: &str, origin: &str| {
        let request = neon
            .stack
            .http
            .request(Method::OPTIONS, path)
            .header(header::ORIGIN, origin)
            .header(header::ACCESS_CONTROL_REQUEST_METHOD, "POST");
        let response = request.send().await.unwrap();
        let allowed = response
            .headers()
            .get(header::ACCESS_CONTROL_ALLOW_ORIGIN)
            .cloned();
        let headers = response
            .headers()
            .get(header::ACCESS_CONTROL_ALLOW_HEADERS)
            .cloned();
        (response.status().as_u16(), allowed, headers)
    };
    let (status, allowed, headers) = preflight(&url, "https://app.example").await;
    assert_eq!(status, 204);
    assert_eq!(allowed.unwrap(), "https://app.example");
    let headers = headers.unwrap();
    for name in [
        "neon-connection-string",
        "neon-batch-deferrable",
        "authorization",
    ] {
        assert!(
            headers.to_str().unwrap().split(", ").any(|one| one == name),
            "{name}"
        );
    }
    let (status, allowed, _) = preflight(&url, "https://evil.example").await;
    assert_eq!((status, allowed), (405, None));
    let elsewhere = format!("{}/customer/databases", neon.stack.base);
    let (status, allowed, _) = preflight(&elsewhere, "https://app.example").await;
    assert_eq!((status, allowed), (405, None));

    // Errors can be read by the page, too.
    let wrong = neon.address().replace(&neon.password, "wrong");
    let request = neon
        .request(&wrong)
        .header(header::ORIGIN, "https://app.example")
        .body("{}");
    let answer = neon.stack.send(request).await;
    assert_eq!(answer.status, 400);
    assert_eq!(
        answer.headers[header::ACCESS_CONTROL_ALLOW_ORIGIN],
        "https://app.example"
    );
    assert_eq!(answer.headers[header::VARY], "origin");
    neon.stack.stop().await;

    let silent = Neon::start(|_| {}).await;
    let request = silent
        .request(&silent.address())
        .header(header::ORIGIN, "https://app.example")
        .json(&json!({"query": "SELECT 1"}));
    let answer = silent.stack.send(request).await;
    assert_eq!(answer.status, 200);
    assert!(
        !answer
            .headers
            .contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN)
    );
    silent.stack.stop().await;
}
