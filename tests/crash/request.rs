//! Requests whose answer may never come, and clients who insist.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::world::{Tenant, World};

/// How long a client has to repeat a request until it is answered well. A crash must not make it
/// wait for a lease or a reservation of minutes.
const INSIST_MAX: Duration = Duration::from_secs(20);

/// A write, with the key that makes it safe to repeat.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    method: reqwest::Method,
    path: String,
    body: Value,
    key: String,
    /// Of a project; otherwise it is the operator who asks.
    token: Option<String>,
}

impl Request {
    fn new(method: reqwest::Method, path: String, body: Value) -> Self {
        let key = format!("{:032x}", rand::random::<u128>());
        Self {
            method,
            path,
            body,
            key,
            token: None,
        }
    }

    /// The same, asked by somebody else.
    pub(crate) fn by(self, token: &str) -> Self {
        Self {
            token: Some(token.to_owned()),
            ..self
        }
    }

    pub(crate) fn post(path: impl Into<String>, body: Value) -> Self {
        Self::new(reqwest::Method::POST, path.into(), body)
    }

    pub(crate) fn create(name: &str) -> Self {
        Self::post("/customer/databases", json!({ "name": name }))
    }

    pub(crate) fn delete(tenant: &Tenant) -> Self {
        Self::new(reqwest::Method::DELETE, tenant.path(), json!({}))
    }

    pub(crate) fn delete_backup(id: &str) -> Self {
        let path = format!("/customer/backups/{id}");
        Self::new(reqwest::Method::DELETE, path, json!({}))
    }

    /// A user of it, who may write.
    pub(crate) fn create_user(tenant: &Tenant, name: &str) -> Self {
        let path = format!("{}/users", tenant.path());
        Self::post(path, json!({ "username": name }))
    }

    pub(crate) fn delete_user(tenant: &Tenant, name: &str) -> Self {
        let path = format!("{}/users/{name}", tenant.path());
        Self::new(reqwest::Method::DELETE, path, json!({}))
    }

    /// Another name or lifetime.
    pub(crate) fn change(tenant: &Tenant, body: Value) -> Self {
        Self::new(reqwest::Method::PATCH, tenant.path(), body)
    }

    /// `undelete`, `suspend`, `resume` or `reset-password`.
    pub(crate) fn act(tenant: &Tenant, what: &str, body: Value) -> Self {
        Self::post(format!("{}/{what}", tenant.path()), body)
    }
}

/// What became of a request.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// It was acknowledged.
    Done(Value),
    /// It was answered, not with a success.
    Refused(u16, Value),
    /// No answer came.
    Lost(String),
}

impl Answer {
    /// The acknowledgement, if that is what came.
    pub(crate) fn done(&self) -> Option<&Value> {
        match self {
            Self::Done(body) => Some(body),
            Self::Refused(..) | Self::Lost(_) => None,
        }
    }
}

impl World {
    /// Sends it once. The future owns all it needs, so it can be a task.
    pub(crate) fn send(&self, request: &Request) -> impl Future<Output = Answer> + Send + 'static {
        let Request {
            method,
            path,
            body,
            key,
            token,
        } = request.clone();
        let token = token.unwrap_or_else(|| self.stack.operator_key().to_owned());
        let request = self
            .http
            .request(method, format!("{}{path}", self.stack.api_url()))
            .bearer_auth(token)
            .header("idempotency-key", key)
            .json(&body);
        async move {
            let answer = match request.send().await {
                Ok(answer) => answer,
                Err(error) => return Answer::Lost(format!("{error:?}")),
            };
            let status = answer.status();
            match answer.json().await {
                Ok(body) if status.is_success() => Answer::Done(body),
                Ok(body) => Answer::Refused(status.as_u16(), body),
                Err(error) => Answer::Lost(format!("{error:?}")),
            }
        }
    }

    /// Repeats it, as a client with an `Idempotency-Key` may, until it is acknowledged.
    pub(crate) async fn insist(&self, request: &Request) -> Value {
        let started = Instant::now();
        loop {
            match self.send(request).await {
                Answer::Done(body) => {
                    let took = started.elapsed();
                    assert!(took < INSIST_MAX, "{request:?} took {took:?}");
                    return body;
                }
                // The ones that say: send it again.
                Answer::Refused(409 | 503, body)
                    if ["catalog_unavailable", "idempotency_in_progress"]
                        .contains(&body["code"].as_str().unwrap_or_default())
                        && started.elapsed() < INSIST_MAX => {}
                Answer::Refused(status, body) => panic!("{request:?}: {status} {body}"),
                Answer::Lost(why) => panic!("{request:?}: no answer: {why}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Makes a database, nothing being in the way.
    pub(crate) async fn create(&self, name: &str) -> Tenant {
        Tenant::of(&self.insist(&Request::create(name)).await)
    }

    /// All that is said of it.
    pub(crate) async fn describe(&self, id: &str) -> Value {
        let path = format!("/customer/databases/{id}");
        self.stack.operator().get(&path).await.ok()
    }

    /// Its state, or `gone`.
    pub(crate) async fn state(&self, id_or_name: &str) -> String {
        let path = format!("/customer/databases/{id_or_name}");
        let answer = self.stack.operator().get(&path).await;
        if answer.status == 404 {
            return "gone".to_owned();
        }
        answer.ok()["state"].as_str().expect("a state").to_owned()
    }
}
