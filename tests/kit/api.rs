//! The API as a client without a library of ours sees it.

use serde_json::Value;

/// One server and one token.
#[derive(Clone, Debug)]
pub struct Api {
    http: reqwest::Client,
    url: String,
    token: Option<String>,
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// The body; `Null` when it was no JSON.
    pub body: Value,
    /// The body as it came.
    pub text: String,
    /// Headers.
    pub headers: reqwest::header::HeaderMap,
}

impl Answer {
    /// The body of a success.
    ///
    /// # Panics
    ///
    /// When it was none.
    #[track_caller]
    pub fn ok(self) -> Value {
        assert!((200..300).contains(&self.status), "{self:#?}");
        self.body
    }

    /// The `code` of an error with this status.
    ///
    /// # Panics
    ///
    /// When the status is another one, or there is no code.
    #[track_caller]
    pub fn code(&self, status: u16) -> &str {
        assert_eq!(self.status, status, "{self:#?}");
        self.body["code"]
            .as_str()
            .unwrap_or_else(|| panic!("no code: {self:#?}"))
    }
}

impl Api {
    /// Nothing is sent yet.
    ///
    /// # Panics
    ///
    /// Never, on a machine that can make a client.
    pub fn new(url: impl Into<String>, token: Option<String>) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        Self {
            http: reqwest::Client::builder().build().expect("an HTTP client"),
            url: url.into(),
            token,
        }
    }

    /// The token.
    pub fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    /// Sends one request, with further headers.
    ///
    /// # Panics
    ///
    /// When no answer comes.
    pub async fn send(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
        headers: &[(&str, &str)],
    ) -> Answer {
        let method = reqwest::Method::from_bytes(method.as_bytes()).expect("a method");
        let mut request = self.http.request(method, format!("{}{path}", self.url));
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = request
            .send()
            .await
            .unwrap_or_else(|error| panic!("{path}: {error:?}"));
        let status = answer.status().as_u16();
        let headers = answer.headers().clone();
        let text = answer
            .text()
            .await
            .unwrap_or_else(|error| panic!("{path}: {error:?}"));
        Answer {
            status,
            body: serde_json::from_str(&text).unwrap_or(Value::Null),
            text,
            headers,
        }
    }

    /// `GET path`.
    pub async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, None, &[]).await
    }

    /// `POST path` with a JSON body.
    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.send("POST", path, Some(&body), &[]).await
    }

    /// `DELETE path`.
    pub async fn delete(&self, path: &str) -> Answer {
        self.send("DELETE", path, None, &[]).await
    }

    /// Makes a database and returns its description with its secrets.
    pub async fn create(&self, name: &str) -> Value {
        let body = serde_json::json!({ "name": name });
        self.post("/customer/databases", body).await.ok()
    }
}
