//! Whether a server that is not ours asks logins of tenants for the proof that the proxy gives.
//!
//! Which line of `pg_hba.conf` fits depends on addresses, TLS, databases and groups, so the server is
//! asked itself, from here, in the name of logins that are made for it and removed again.
//!
//! Owns: that question. Does not own: which databases of others such a login could enter (`doors`).

use std::time::Duration;

use model::{
    Pid, Role,
    route::{NodeAddress, NodeTls, ServerLogin},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, UnixStream},
};
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};

use super::doors::lines;
use crate::{Node, NodeError, handle::CONNECT_MAX};

const STEP: &str = "ask how logins of tenants come in";
/// Always the same, so that what a crash leaves is found and removed by the next start.
const PROBE: &str = "probeofdoors";
/// An answer to a startup packet; the longest is an error with a few hundred bytes of text.
const ANSWER_BYTES_MAX: usize = 8192;

/// "Message Formats" in the PostgreSQL manual.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];
const PROTOCOL_3_0: i32 = 196_608;

impl Node {
    /// Makes sure that logins of tenants are asked for SCRAM-SHA-256, on the way that the proxy takes.
    /// The groups must be there.
    ///
    /// # Errors
    ///
    /// [`NodeError::Conflict`] when they are not, with what to change; those of the server.
    pub(crate) async fn require_scram(&self) -> Result<(), NodeError> {
        let pid: Pid = PROBE.parse().expect("it has the form of one");
        self.create_logins(&pid).await?;
        let mut wrong = Vec::new();
        for role in Role::ALL {
            let login = self.server_login(&pid, role);
            if let Err(why) = self.is_asked_for_scram(&login).await
                && !wrong.contains(&why)
            {
                wrong.push(why);
            }
        }
        self.drop_logins(&pid).await?;
        if wrong.is_empty() {
            return Ok(());
        }
        let kind = match &self.target().address {
            NodeAddress::Unix(_) => "local",
            NodeAddress::Tcp { .. } => "host",
        };
        Err(NodeError::Conflict {
            step: STEP,
            what: format!(
                "{}. Put these lines, in this order, before the line of pg_hba.conf that fits now, and reload it: {}",
                wrong.join("; "),
                lines(kind)
            ),
        })
    }

    /// Begins to log in, and looks at what is asked for.
    async fn is_asked_for_scram(&self, login: &ServerLogin) -> Result<(), String> {
        let asked = match &self.target().address {
            NodeAddress::Unix(socket) => {
                within(CONNECT_MAX, async {
                    ask(UnixStream::connect(socket).await?, login).await
                })
                .await
            }
            NodeAddress::Tcp { host, port, tls } => {
                within(CONNECT_MAX, async {
                    let mut stream = TcpStream::connect((host.as_str(), *port)).await?;
                    if *tls == NodeTls::Disable {
                        return ask(stream, login).await;
                    }
                    stream.write_all(&SSL_REQUEST).await?;
                    if stream.read_u8().await? != b'S' {
                        return Ok(Asked::Refused("it has no TLS".to_owned()));
                    }
                    let mut connector = self.shared.parts.tls.clone();
                    let connect =
                        MakeTlsConnect::<TcpStream>::make_tls_connect(&mut connector, host)
                            .map_err(std::io::Error::other)?;
                    let stream = connect.connect(stream).await;
                    ask(stream.map_err(std::io::Error::other)?, login).await
                })
                .await
            }
        };
        match asked {
            Ok(Asked::Scram) => Ok(()),
            Ok(Asked::Nothing) => Err(
                "the server lets logins of tenants in without their password (trust, or the like)"
                    .to_owned(),
            ),
            Ok(Asked::Other(method)) => Err(format!(
                "the server asks logins of tenants for {method}, and the proxy answers SCRAM-SHA-256 only"
            )),
            Ok(Asked::Refused(words)) => Err(format!(
                "the server does not let logins of tenants in: {words}"
            )),
            Err(error) => Err(format!("the server does not answer a login: {error}")),
        }
    }
}

async fn within(
    limit: Duration,
    asking: impl Future<Output = std::io::Result<Asked>>,
) -> std::io::Result<Asked> {
    tokio::time::timeout(limit, asking)
        .await
        .unwrap_or_else(|elapsed| Err(std::io::Error::other(elapsed)))
}

/// What a server wants to see.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Asked {
    Scram,
    Nothing,
    Other(&'static str),
    /// In its own words.
    Refused(String),
}

/// Sends a startup packet and reads the first answer.
async fn ask(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    login: &ServerLogin,
) -> std::io::Result<Asked> {
    let mut body = PROTOCOL_3_0.to_be_bytes().to_vec();
    for text in ["user", &login.user, "database", &login.database, ""] {
        body.extend_from_slice(text.as_bytes());
        body.push(0);
    }
    let length = i32::try_from(body.len() + 4).expect("two names are short");
    stream.write_all(&length.to_be_bytes()).await?;
    stream.write_all(&body).await?;
    stream.flush().await?;
    let kind = stream.read_u8().await?;
    let length = stream.read_i32().await?;
    let length = usize::try_from(length)
        .ok()
        .and_then(|length| length.checked_sub(4))
        .filter(|length| *length <= ANSWER_BYTES_MAX)
        .ok_or_else(|| std::io::Error::other("its answer is none of PostgreSQL"))?;
    let mut answer = vec![0; length];
    stream.read_exact(&mut answer).await?;
    Ok(read(kind, &answer))
}

/// The answer to a startup packet.
fn read(kind: u8, answer: &[u8]) -> Asked {
    let text = |field: u8| {
        let fields = answer.split(|byte| *byte == 0);
        fields
            .filter_map(|found| found.split_first())
            .find(|(name, _)| **name == field)
            .map(|(_, text)| String::from_utf8_lossy(text).into_owned())
    };
    match (kind, answer) {
        (b'E', _) => Asked::Refused(text(b'M').unwrap_or_default()),
        (b'R', [0, 0, 0, 0, ..]) => Asked::Nothing,
        (b'R', [0, 0, 0, 3, ..]) => Asked::Other("a password in plain text"),
        (b'R', [0, 0, 0, 5, ..]) => Asked::Other("MD5"),
        (b'R', [0, 0, 0, 7 | 9, ..]) => Asked::Other("GSSAPI or SSPI"),
        (b'R', [0, 0, 0, 10, mechanisms @ ..])
            if mechanisms
                .split(|byte| *byte == 0)
                .any(|name| name == b"SCRAM-SHA-256") =>
        {
            Asked::Scram
        }
        _ => Asked::Other("something else"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_apart() {
        let refused = Asked::Refused("no entry".to_owned());
        for (kind, answer, asked) in [
            (b'R', &b"\0\0\0\0"[..], Asked::Nothing),
            (
                b'R',
                b"\0\0\0\x0aSCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0",
                Asked::Scram,
            ),
            (
                b'R',
                b"\0\0\0\x0aOAUTHBEARER\0\0",
                Asked::Other("something else"),
            ),
            (
                b'R',
                b"\0\0\0\x03",
                Asked::Other("a password in plain text"),
            ),
            (b'R', b"\0\0\0\x05salt", Asked::Other("MD5")),
            (b'E', b"SFATAL\0C28000\0Mno entry\0\0", refused),
            (b'R', b"", Asked::Other("something else")),
            (b'X', b"\0\0\0\0", Asked::Other("something else")),
        ] {
            assert_eq!(read(kind, answer), asked);
        }
    }
}
