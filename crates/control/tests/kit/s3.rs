//! As much of S3 as backups need: put, get with a range, head, delete, and uploads in parts.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::Bytes,
    extract::{Query, State},
    http::{HeaderMap, Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use tokio::sync::watch;

pub const ACCESS_KEY: &str = "backups";

/// What is stored.
#[derive(Clone, Default)]
pub struct Bucket(Arc<Mutex<Inside>>);

#[derive(Default)]
struct Inside {
    objects: BTreeMap<String, Bytes>,
    uploads: HashMap<String, BTreeMap<u32, Bytes>>,
    begun: u32,
    /// Requests that are answered with 503 from now on.
    refuse: u32,
    refused: u32,
    /// Parts of uploads are not answered for now.
    holds: watch::Sender<bool>,
    /// There is no bucket.
    is_gone: bool,
}

impl Bucket {
    /// Answers on a free port, for as long as the runtime lives.
    pub async fn serve(&self) -> SocketAddr {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0))
            .await
            .unwrap();
        let address = listener.local_addr().unwrap();
        let routes = Router::new()
            .fallback(answer)
            .layer(axum::extract::DefaultBodyLimit::disable())
            .with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, routes).await });
        address
    }

    pub fn names(&self) -> Vec<String> {
        self.0.lock().unwrap().objects.keys().cloned().collect()
    }

    pub fn change(&self, name: &str, change: impl FnOnce(Vec<u8>) -> Vec<u8>) {
        let mut inside = self.0.lock().unwrap();
        let object = inside.objects.get_mut(name).unwrap();
        *object = change(object.to_vec()).into();
    }

    /// Uploads that were neither completed nor ended.
    pub fn half(&self) -> usize {
        self.0.lock().unwrap().uploads.len()
    }

    /// The next so many requests fail as those of a store that is too busy.
    pub fn refuse(&self, count: u32) {
        self.0.lock().unwrap().refuse = count;
    }

    /// Lets whoever sends a part of an upload wait.
    pub fn hold(&self, holds: bool) {
        self.0.lock().unwrap().holds.send_replace(holds);
    }

    /// Removes the bucket with all that is in it, or brings it back.
    pub fn be_gone(&self, is_gone: bool) {
        self.0.lock().unwrap().is_gone = is_gone;
    }

    pub fn refused(&self) -> u32 {
        self.0.lock().unwrap().refused
    }
}

async fn answer(
    State(bucket): State<Bucket>,
    method: Method,
    uri: Uri,
    Query(query): Query<HashMap<String, String>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let text = |name: header::HeaderName| {
        let value = headers.get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_default().to_owned()
    };
    let wanted = format!("AWS4-HMAC-SHA256 Credential={ACCESS_KEY}/");
    if !text(header::AUTHORIZATION).starts_with(&wanted) {
        return StatusCode::FORBIDDEN.into_response();
    }
    if method == Method::PUT && query.contains_key("uploadId") {
        let mut holds = bucket.0.lock().unwrap().holds.subscribe();
        holds.wait_for(|holds| !holds).await.unwrap();
    }
    let name = uri.path().trim_start_matches('/').to_owned();
    let mut inside = bucket.0.lock().unwrap();
    if inside.refuse > 0 {
        inside.refuse -= 1;
        inside.refused += 1;
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    if inside.is_gone {
        let text = match method {
            Method::HEAD => "",
            _ => {
                "<Error><Code>NoSuchBucket</Code><Message>The specified bucket does not exist</Message></Error>"
            }
        };
        return (StatusCode::NOT_FOUND, text).into_response();
    }
    let upload = query.get("uploadId");
    let etag = [(header::ETAG, "\"one\"")];
    match (method.as_str(), upload) {
        ("POST", None) if query.contains_key("uploads") => {
            inside.begun += 1;
            let id = format!("upload-{}", inside.begun);
            inside.uploads.insert(id.clone(), BTreeMap::new());
            format!("<InitiateMultipartUploadResult><UploadId>{id}</UploadId></InitiateMultipartUploadResult>").into_response()
        }
        ("PUT", Some(id)) => {
            let number = query["partNumber"].parse().unwrap();
            let Some(parts) = inside.uploads.get_mut(id) else {
                return StatusCode::NOT_FOUND.into_response();
            };
            parts.insert(number, body);
            etag.into_response()
        }
        ("POST", Some(id)) => {
            let Some(parts) = inside.uploads.remove(id) else {
                return StatusCode::NOT_FOUND.into_response();
            };
            let whole: Vec<u8> = parts.into_values().flatten().collect();
            inside.objects.insert(name, whole.into());
            "<CompleteMultipartUploadResult><ETag>\"one\"</ETag></CompleteMultipartUploadResult>"
                .into_response()
        }
        ("DELETE", Some(id)) => match inside.uploads.remove(id) {
            Some(_) => StatusCode::NO_CONTENT.into_response(),
            None => StatusCode::NOT_FOUND.into_response(),
        },
        ("PUT", None) => {
            inside.objects.insert(name, body);
            etag.into_response()
        }
        ("DELETE", None) => {
            inside.objects.remove(&name);
            StatusCode::NO_CONTENT.into_response()
        }
        ("GET" | "HEAD", None) => {
            let Some(object) = inside.objects.get(&name) else {
                return StatusCode::NOT_FOUND.into_response();
            };
            let all = object.len();
            let modified = (
                header::LAST_MODIFIED,
                "Sun, 22 Nov 2026 00:00:00 GMT".to_owned(),
            );
            let etag = (header::ETAG, "\"one\"".to_owned());
            if method == Method::HEAD {
                let length = (header::CONTENT_LENGTH, all.to_string());
                return ([modified, etag, length]).into_response();
            }
            let range = text(header::RANGE);
            let Some((from, to)) = range
                .strip_prefix("bytes=")
                .and_then(|range| range.split_once('-'))
            else {
                return ([modified, etag], object.clone()).into_response();
            };
            let from: usize = from.parse().unwrap();
            let to = to.parse().map_or(all, |to: usize| to + 1).min(all);
            let shown = format!("bytes {from}-{}/{all}", to - 1);
            let part = object.slice(from..to);
            let range = (header::CONTENT_RANGE, shown);
            (StatusCode::PARTIAL_CONTENT, [modified, etag, range], part).into_response()
        }
        _ => StatusCode::NOT_IMPLEMENTED.into_response(),
    }
}
