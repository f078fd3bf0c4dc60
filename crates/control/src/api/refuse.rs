//! What is answered to those whose bytes are no HTTP request: in the shape that all errors have, or in
//! PostgreSQL's own language to its clients.
//!
//! Owns: the texts of these answers, and that they arrive. Does not own: who gets them
//! ([`super::server`]).

use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::TcpStream,
    time::Sleep,
};

use super::{
    error::{ApiError, ErrorCode, REQUEST_ID},
    layers::new_request_id,
};

/// For how long what still comes is read after the answer. With bytes unread, closing would be a reset,
/// and the client might never see what it was told.
const LINGER_TIME_MAX: Duration = Duration::from_secs(1);
/// How much of it.
const LINGER_BYTES_MAX: usize = 1 << 20;

/// Says in HTTP to whoever speaks another protocol which one this port speaks.
pub(super) async fn refuse(stream: TcpStream, message: &'static str, hint: &'static str) {
    let error = ApiError::with(ErrorCode::BadRequest, message).hint(hint);
    let mut stream = Answering::new(stream);
    stream.is_refused = true;
    let _ = stream.write_all(&whole_answer(&error)).await;
    let _ = stream.shutdown().await;
}

/// An answer without HTTP's machinery, its request id made here.
fn whole_answer(error: &ApiError) -> Vec<u8> {
    let id = new_request_id();
    let body = error.plain_body(&id);
    let status = error.code.status();
    tracing::debug!(id, status = status.as_u16(), "refused what is no request");
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
         {REQUEST_ID}: {id}\r\ncache-control: no-store\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// A connection on which hyper's own answers get a body. It answers what it cannot parse by itself,
/// before any layer of ours, with a bare status.
pub(super) struct Answering<S> {
    stream: S,
    instead: Option<Instead>,
    /// Nothing more is expected of the client.
    is_refused: bool,
    linger: Option<Linger>,
}

/// Written in place of bytes of hyper's.
struct Instead {
    answer: Vec<u8>,
    written: usize,
    /// How many bytes it replaces.
    replaces: usize,
}

struct Linger {
    until: Pin<Box<Sleep>>,
    bytes_left: usize,
}

impl<S> Answering<S> {
    pub(super) fn new(stream: S) -> Self {
        Self {
            stream,
            instead: None,
            is_refused: false,
            linger: None,
        }
    }
}

/// Where in `bytes` a head of hyper's own begins, and which error it is. It is the last thing that is
/// written. Our own answers have a request's id in their head and JSON in their body, in which no
/// line can end as this one does.
fn bare_answer(bytes: &[u8]) -> Option<(usize, ApiError)> {
    const START: &[u8] = b"HTTP/1.";
    if !bytes.ends_with(b"\r\n\r\n") {
        return None;
    }
    let begins = bytes.windows(START.len()).rposition(|at| at == START)?;
    let head = std::str::from_utf8(bytes.get(begins..)?).ok()?;
    if head.contains(REQUEST_ID.as_str()) {
        return None;
    }
    let error = match head.get(START.len() + 2..START.len() + 5)? {
        "400" => ApiError::with(
            ErrorCode::BadRequest,
            "what was sent is no HTTP/1.1 request",
        )
        .hint("send one, for example GET /openapi.json; databases are on another port"),
        "414" | "431" => ErrorCode::HeadersTooLarge.into(),
        _ => return None,
    };
    Some((begins, error))
}

impl<S: AsyncRead + Unpin> AsyncRead for Answering<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Answering<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.instead.is_none() {
            match bare_answer(bytes) {
                None => return Pin::new(&mut this.stream).poll_write(cx, bytes),
                // The answer to an earlier request goes first, as it is.
                Some((begins @ 1.., _)) => {
                    return Pin::new(&mut this.stream).poll_write(cx, &bytes[..begins]);
                }
                Some((0, error)) => {
                    this.is_refused = true;
                    this.instead = Some(Instead {
                        answer: whole_answer(&error),
                        written: 0,
                        replaces: bytes.len(),
                    });
                }
            }
        }
        let Some(instead) = &mut this.instead else {
            return Poll::Ready(Ok(0));
        };
        while let Some(rest @ [_, ..]) = instead.answer.get(instead.written..) {
            match ready!(Pin::new(&mut this.stream).poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => instead.written += written,
            }
        }
        let replaces = instead.replaces;
        this.instead = None;
        Poll::Ready(Ok(replaces))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// Of a client that was refused, what it still sends is read for a bounded time.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.linger.is_none() {
            ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
            if !this.is_refused {
                return Poll::Ready(Ok(()));
            }
        }
        let linger = this.linger.get_or_insert_with(|| Linger {
            until: Box::pin(tokio::time::sleep(LINGER_TIME_MAX)),
            bytes_left: LINGER_BYTES_MAX,
        });
        let mut scratch = [0; 4096];
        while linger.until.as_mut().poll(cx).is_pending() {
            let mut buffer = ReadBuf::new(&mut scratch);
            let read = ready!(Pin::new(&mut this.stream).poll_read(cx, &mut buffer));
            let count = buffer.filled().len();
            if read.is_err() || count == 0 || count >= linger.bytes_left {
                break;
            }
            linger.bytes_left -= count;
        }
        Poll::Ready(Ok(()))
    }
}

/// SSLRequest, and GSSENCRequest; PostgreSQL manual, "Message Formats".
const ENCRYPTION_REQUESTS: [[u8; 4]; 2] =
    [80_877_103_u32.to_be_bytes(), 80_877_104_u32.to_be_bytes()];
/// A startup packet longer than this is refused by PostgreSQL too.
const STARTUP_BYTES_MAX: u32 = 10_000;

/// Answers a PostgreSQL client in its own language: no encryption here, and no database either.
pub(super) async fn refuse_postgresql(mut stream: TcpStream) -> io::Result<()> {
    // Two requests for encryption at most, then the startup packet.
    for _ in 0..3 {
        let length = stream.read_u32().await?;
        let mut code = [0; 4];
        stream.read_exact(&mut code).await?;
        if length == 8 && ENCRYPTION_REQUESTS.contains(&code) {
            stream.write_all(b"N").await?;
            continue;
        }
        let rest = u64::from(length.min(STARTUP_BYTES_MAX).saturating_sub(8));
        tokio::io::copy(&mut (&mut stream).take(rest), &mut tokio::io::sink()).await?;
        stream.write_all(&error_response()).await?;
        return stream.shutdown().await;
    }
    Ok(())
}

fn error_response() -> Vec<u8> {
    let fields = [
        "SFATAL",
        "VFATAL",
        "C08P01",
        "Mthis is the port of the HTTP API, not of databases",
        "Huse the host and port of the database's connection string",
    ];
    let mut body: Vec<u8> = Vec::new();
    for field in fields {
        body.extend_from_slice(field.as_bytes());
        body.push(0);
    }
    body.push(0);
    let length = u32::try_from(body.len() + 4).expect("the message is short");
    let mut message = vec![b'E'];
    message.extend_from_slice(&length.to_be_bytes());
    message.extend_from_slice(&body);
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_for_postgresql_clients_is_well_formed() {
        let message = error_response();
        let length = u32::from_be_bytes(message[1..5].try_into().unwrap());
        assert_eq!(length as usize, message.len() - 1);
        assert!(message.ends_with(b"\0\0"));
    }

    /// What hyper writes, and what it must not be taken for.
    #[test]
    fn only_a_bare_answer_is_replaced() {
        let bare = "HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\n\
            connection: close\r\ndate: Sat, 21 Nov 2026 11:00:00 GMT\r\n\r\n";
        let ours = "HTTP/1.1 400 Bad Request\r\nx-request-id: req_a\r\ncontent-length: 2\r\n\r\n{}";
        let found = |bytes: &str| bare_answer(bytes.as_bytes()).map(|(at, error)| (at, error.code));
        assert_eq!(found(bare), Some((0, ErrorCode::HeadersTooLarge)));
        assert_eq!(
            found(&format!("{ours}{bare}")),
            Some((ours.len(), ErrorCode::HeadersTooLarge))
        );
        for other in [
            "",
            ours,
            "HTTP/1.1 100 Continue\r\n\r\n",
            "HTTP/1.1 400 Bad Request\r\nx-request-id: req_a\r\ncontent-length: 0\r\n\r\n",
            "{\"text\": \"HTTP/1.1 400 \\r\\n\\r\\n",
            "\r\n\r\n",
        ] {
            assert_eq!(found(other), None, "{other:?}");
        }
    }

    /// One byte at a time, as a slow connection takes it: the same answer, once.
    #[tokio::test]
    async fn a_slow_connection_gets_the_whole_answer() {
        let (near, mut far) = tokio::io::duplex(1);
        let write = async {
            let mut stream = Answering::new(near);
            let bare = b"{}HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n";
            stream.write_all(bare).await.unwrap();
            stream.shutdown().await.unwrap();
        };
        let mut answer = String::new();
        let (_, read) = tokio::join!(write, async {
            let read = far.read_to_string(&mut answer).await;
            drop(far);
            read
        });
        read.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("{}HTTP/1.1 400 Bad Request\r\n"), "{head}");
        assert!(head.contains(&format!("content-length: {}", body.len())));
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        assert!(head.contains(&format!(
            "x-request-id: {}",
            body["request_id"].as_str().unwrap()
        )));
    }
}
