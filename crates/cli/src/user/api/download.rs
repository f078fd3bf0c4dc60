//! An answer that is a file: of any size, read piece by piece.

use std::time::Duration;

use bytes::Bytes;
use reqwest::{
    Response,
    header::{CONTENT_TYPE, HeaderValue},
};
use serde_json::Value;

use super::{Api, root_cause};
use crate::exit::{Exit, Failure};

/// More than the server takes.
const TIME_MAX: Duration = Duration::from_secs(24 * 3600);

/// A file on its way.
pub(crate) struct Download(Response);

impl Api {
    /// Asks for one. It is not asked again: what the first request began would be in its way.
    ///
    /// # Errors
    ///
    /// As [`Self::get`].
    pub(crate) async fn download(&self, path: &str, body: &Value) -> Result<Download, Failure> {
        let token = self.credentials().await?;
        let request = self.http.post(format!("{}{path}", self.url));
        let request = request.bearer_auth(token.reveal()).json(body);
        let answer = request.timeout(TIME_MAX).send().await;
        let answer = answer.map_err(|error| self.unreachable(&error))?;
        let status = answer.status();
        let kind = HeaderValue::from_static("application/octet-stream");
        if status.is_success() && answer.headers().get(CONTENT_TYPE) == Some(&kind) {
            return Ok(Download(answer));
        }
        Err(match self.read(answer).await {
            Err(failure) => failure,
            Ok(_) => self.not_ours(status),
        })
    }
}

impl Download {
    /// The next piece; `None`: it is whole.
    ///
    /// # Errors
    ///
    /// When it breaks off: what came before is worth nothing.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        self.0.chunk().await.map_err(|error| {
            Failure::new(
                Exit::Failed,
                format!("what the server sent broke off: {}", root_cause(&error)),
                "its log says why",
            )
        })
    }
}
