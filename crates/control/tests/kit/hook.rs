//! A webhook, as somebody would write one.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode},
};
use hmac::{Hmac, KeyInit, Mac};
use serde_json::Value;
use sha2::Sha256;

/// What a webhook does with a message.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Answer {
    Status(u16),
    /// It never answers.
    Hang,
}

/// A message that came.
#[derive(Clone, Debug)]
pub struct Got {
    pub id: String,
    pub signature: String,
    pub body: String,
}

impl Got {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    /// As the page of alerts says that it is checked.
    pub fn is_signed_with(&self, secret: &str) -> bool {
        let (time, mac) = self.signature.split_once(",v1=").unwrap();
        let time = time.strip_prefix("t=").unwrap();
        let seconds: i64 = time.parse().unwrap();
        let text = format!("{time}.{}", self.body);
        let mut own = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
        own.update(text.as_bytes());
        let own: String = own
            .finalize()
            .into_bytes()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        (chrono::Utc::now().timestamp() - seconds).abs() < 300 && own == mac
    }
}

#[derive(Default)]
struct Inside {
    got: Vec<Got>,
    answers: VecDeque<Answer>,
}

/// Takes messages on a free port, for as long as the runtime lives.
#[derive(Clone)]
pub struct Hook {
    pub url: String,
    inside: Arc<Mutex<Inside>>,
}

impl Hook {
    pub async fn serve() -> Self {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0))
            .await
            .unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let inside = Arc::<Mutex<Inside>>::default();
        let routes = Router::new().fallback(take).with_state(inside.clone());
        tokio::spawn(async move { axum::serve(listener, routes).await });
        Self { url, inside }
    }

    /// What it does with the next ones; with those after them it says that all is well.
    pub fn answer(&self, answers: &[Answer]) {
        self.inside.lock().unwrap().answers = answers.iter().copied().collect();
    }

    pub fn got(&self) -> Vec<Got> {
        self.inside.lock().unwrap().got.clone()
    }

    /// Events and alerts, in the order in which they came.
    pub fn events(&self) -> Vec<(String, String)> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let event = |got: &Got| {
            let message = got.json();
            (
                text(&message["type"]),
                text(&message["alert"]["subject"]["id"]),
            )
        };
        self.got().iter().map(event).collect()
    }
}

async fn take(
    State(inside): State<Arc<Mutex<Inside>>>,
    headers: HeaderMap,
    body: Bytes,
) -> StatusCode {
    let text = |name: &str| headers[name].to_str().unwrap().to_owned();
    let answer = {
        let mut inside = inside.lock().unwrap();
        inside.got.push(Got {
            id: text("tenantry-message-id"),
            signature: text("tenantry-signature"),
            body: String::from_utf8(body.to_vec()).unwrap(),
        });
        inside.answers.pop_front()
    };
    match answer {
        None => StatusCode::NO_CONTENT,
        Some(Answer::Status(status)) => StatusCode::from_u16(status).unwrap(),
        Some(Answer::Hang) => std::future::pending().await,
    }
}
