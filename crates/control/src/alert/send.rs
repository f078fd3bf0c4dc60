//! One message to one webhook.
//!
//! Owns: where may be sent to, and the request. A name is resolved once, and connected to is one of the addresses
//! that were looked at; redirects are not followed, no proxy of the environment is used, and of the answer a few
//! kilobytes are read and nothing is told but its status. Does not own: when, and how often ([`super::deliver`]).

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::LazyLock,
    time::Duration,
};

use model::{MessageId, Network, Secret};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

use super::message;
use crate::api::error::chain;

/// For the whole of it. Whoever takes longer does its work while we wait.
const TIME_MAX: Duration = Duration::from_secs(10);
const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);
/// Read of an answer, so that the connection ends in order.
const ANSWER_BYTES_MAX: usize = 4 << 10;
/// Of an URL.
pub(super) const URL_BYTES_MAX: usize = 2_000;
/// Names are looked up by threads; one that hangs is not waited for.
const RESOLVE_TIME_MAX: Duration = Duration::from_secs(3);

/// Who sends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Sender {
    /// May reach what the machine reaches.
    Operator,
    /// May reach what everybody reaches: not this machine, nor what is near it.
    Owner,
}

/// Which addresses may be connected to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Reach {
    Anywhere,
    Loopback,
    Public,
}

/// An URL that may be a webhook's.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Target {
    url: Url,
    reach: Reach,
}

/// Why an URL is none.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(super) enum TargetError {
    #[error("url is no URL of up to {URL_BYTES_MAX} bytes with a host")]
    Form,
    #[error("url has a user or a password, which would stand in lists and logs")]
    Credentials,
    #[error("url begins with https, or for the operator with http and an address of this machine")]
    Scheme,
    #[error("url leads to an address that is not public")]
    NotPublic,
}

/// Why a message was not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum SendError {
    #[error(transparent)]
    Target(#[from] TargetError),
    #[error("it did not answer within {} s", TIME_MAX.as_secs())]
    Timeout,
    #[error("{0}")]
    Http(String),
    #[error("it answered with status {0}; redirects are not followed")]
    Redirect(u16),
    #[error("it answered with status {0}")]
    Status(u16),
}

/// Networks that are not public. IPv4: this machine, private, shared, link-local, documentation, benchmarks,
/// relays, multicast and what nobody has. IPv6, within 2000::/3, outside of which nothing is: protocols that
/// carry addresses of IPv4 (Teredo, 6to4) and documentation.
static NOT_PUBLIC: LazyLock<Vec<Network>> = LazyLock::new(|| {
    let networks = [
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/3",
        "2001::/23",
        "2001:db8::/32",
        "2002::/16",
        "3fff::/20",
    ];
    let network = |text: &str| text.parse().expect("each is a network");
    networks.into_iter().map(network).collect()
});

fn is_public(address: IpAddr) -> bool {
    let address = address.to_canonical();
    let can_be = match address {
        IpAddr::V4(_) => true,
        IpAddr::V6(own) => own.segments()[0] & 0xe000 == 0x2000,
    };
    can_be && !NOT_PUBLIC.iter().any(|network| network.contains(address))
}

impl Reach {
    fn allows(self, address: IpAddr) -> bool {
        match self {
            Self::Anywhere => true,
            Self::Loopback => address.to_canonical().is_loopback(),
            Self::Public => is_public(address),
        }
    }

    /// What of a name may be connected to.
    async fn look_up(self, name: &str) -> io::Result<Vec<SocketAddr>> {
        let found = tokio::time::timeout(RESOLVE_TIME_MAX, tokio::net::lookup_host((name, 0)));
        let found = found.await??;
        let mut allowed = found.filter(|address| self.allows(address.ip())).peekable();
        match allowed.peek() {
            Some(_) => Ok(allowed.collect()),
            None => Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                TargetError::NotPublic,
            )),
        }
    }
}

impl Resolve for Reach {
    fn resolve(&self, name: Name) -> Resolving {
        let reach = *self;
        Box::pin(async move {
            let allowed = reach.look_up(name.as_str()).await?;
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

impl Target {
    /// What the text alone says; a name is looked at when it is resolved.
    pub(super) fn parse(text: &str, sender: Sender) -> Result<Self, TargetError> {
        if text.len() > URL_BYTES_MAX {
            return Err(TargetError::Form);
        }
        let url = Url::parse(text).map_err(|_| TargetError::Form)?;
        let host = url.host().ok_or(TargetError::Form)?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(TargetError::Credentials);
        }
        let reach = match (url.scheme(), sender) {
            ("https", Sender::Operator) => Reach::Anywhere,
            ("https", Sender::Owner) => Reach::Public,
            ("http", Sender::Operator) => Reach::Loopback,
            _ => return Err(TargetError::Scheme),
        };
        // No name is looked up for these.
        let address = match host {
            Host::Ipv4(address) => Some(IpAddr::V4(address)),
            Host::Ipv6(address) => Some(IpAddr::V6(address)),
            Host::Domain(_) => None,
        };
        match (address, reach) {
            (Some(address), _) if reach.allows(address) => {}
            (None, _) => {}
            (Some(_), Reach::Loopback) => return Err(TargetError::Scheme),
            (Some(_), _) => return Err(TargetError::NotPublic),
        }
        Ok(Self { url, reach })
    }

    /// Looks at where its name leads now. A name that leads nowhere yet is let pass: it is looked at again each
    /// time something is sent.
    pub(super) async fn look(&self) -> Result<(), TargetError> {
        let Some(Host::Domain(name)) = self.url.host() else {
            return Ok(());
        };
        match self.reach.look_up(name).await {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => match self.reach {
                Reach::Loopback => Err(TargetError::Scheme),
                Reach::Anywhere | Reach::Public => Err(TargetError::NotPublic),
            },
            _ => Ok(()),
        }
    }

    /// As it is kept and shown.
    pub(super) fn as_str(&self) -> &str {
        self.url.as_str()
    }
}

fn client(reach: Reach) -> Result<reqwest::Client, reqwest::Error> {
    reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .dns_resolver(std::sync::Arc::new(reach))
        .no_proxy()
        .timeout(TIME_MAX)
        .connect_timeout(CONNECT_TIME_MAX)
        // Seldom, and to whom it was checked for just now.
        .pool_max_idle_per_host(0)
        .user_agent(concat!("tenantry/", env!("CARGO_PKG_VERSION")))
        .build()
}

type Client = LazyLock<Result<reqwest::Client, reqwest::Error>>;
static ANYWHERE: Client = LazyLock::new(|| client(Reach::Anywhere));
static LOOPBACK: Client = LazyLock::new(|| client(Reach::Loopback));
static PUBLIC: Client = LazyLock::new(|| client(Reach::Public));

/// Sends it once. `url`: as it was kept; it is looked at again.
///
/// # Errors
///
/// Why it was not taken. It may have arrived all the same.
pub(super) async fn send(
    url: &str,
    sender: Sender,
    secret: &Secret,
    id: &MessageId,
    body: &str,
) -> Result<u16, SendError> {
    let target = Target::parse(url, sender)?;
    let client = match target.reach {
        Reach::Anywhere => &*ANYWHERE,
        Reach::Loopback => &*LOOPBACK,
        Reach::Public => &*PUBLIC,
    };
    let client = client.as_ref().map_err(failed)?;
    let at = chrono::Utc::now().timestamp();
    let asked = client
        .post(target.url)
        .header(reqwest::header::CONTENT_TYPE, "application/json")
        .header(message::ID, id.as_str())
        .header(message::SIGNATURE, message::signature(secret, at, body))
        .body(body.to_owned());
    let mut answer = match asked.send().await {
        Ok(answer) => answer,
        Err(error) if error.is_timeout() => return Err(SendError::Timeout),
        Err(error) => return Err(failed(&error)),
    };
    let status = answer.status();
    let mut read = 0;
    while read < ANSWER_BYTES_MAX
        && let Ok(Some(chunk)) = answer.chunk().await
    {
        read += chunk.len();
    }
    match status.as_u16() {
        status @ 200..300 => Ok(status),
        status @ 300..400 => Err(SendError::Redirect(status)),
        status => Err(SendError::Status(status)),
    }
}

/// Without the URL, whose path may be a secret of its own.
fn failed(error: &reqwest::Error) -> SendError {
    let whole = chain(error);
    let told = match error.url() {
        Some(url) => whole.replace(&format!(" for url ({url})"), ""),
        None => whole,
    };
    SendError::Http(told)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Columns: URL, what the operator is told, what an owner is.
    #[test]
    fn who_may_send_where() {
        use TargetError::{Credentials, Form, NotPublic, Scheme};
        for (url, operator, owner) in [
            ("https://hooks.example/a?b=c", None, None),
            ("https://8.8.8.8/", None, None),
            ("https://[2606:4700::1111]/", None, None),
            ("https://127.0.0.1/", None, Some(NotPublic)),
            ("https://127.1/", None, Some(NotPublic)),
            ("https://0x7f.0.0.1/", None, Some(NotPublic)),
            ("https://2130706433/", None, Some(NotPublic)),
            ("https://0/", None, Some(NotPublic)),
            ("https://169.254.169.254/latest", None, Some(NotPublic)),
            ("https://10.1.2.3/", None, Some(NotPublic)),
            ("https://172.31.255.255/", None, Some(NotPublic)),
            ("https://192.168.0.1/", None, Some(NotPublic)),
            ("https://100.64.0.1/", None, Some(NotPublic)),
            ("https://224.0.0.1/", None, Some(NotPublic)),
            ("https://255.255.255.255/", None, Some(NotPublic)),
            ("https://[::1]/", None, Some(NotPublic)),
            ("https://[::]/", None, Some(NotPublic)),
            ("https://[::ffff:127.0.0.1]/", None, Some(NotPublic)),
            ("https://[::ffff:a9fe:a9fe]/", None, Some(NotPublic)),
            ("https://[64:ff9b::7f00:1]/", None, Some(NotPublic)),
            ("https://[2002:7f00:1::]/", None, Some(NotPublic)),
            ("https://[fe80::1]/", None, Some(NotPublic)),
            ("https://[fd00::1]/", None, Some(NotPublic)),
            ("http://127.0.0.1:8080/", None, Some(Scheme)),
            ("http://[::1]/", None, Some(Scheme)),
            ("http://localhost/", None, Some(Scheme)),
            ("http://10.0.0.1/", Some(Scheme), Some(Scheme)),
            ("http://8.8.8.8/", Some(Scheme), Some(Scheme)),
            ("ftp://8.8.8.8/", Some(Scheme), Some(Scheme)),
            ("file:///etc/passwd", Some(Form), Some(Form)),
            ("https://", Some(Form), Some(Form)),
            ("hooks.example", Some(Form), Some(Form)),
            (
                "https://a:b@hooks.example/",
                Some(Credentials),
                Some(Credentials),
            ),
        ] {
            let error = |sender| Target::parse(url, sender).err();
            assert_eq!(error(Sender::Operator), operator, "{url}");
            assert_eq!(error(Sender::Owner), owner, "{url}");
        }
        let long = format!("https://hooks.example/{}", "a".repeat(URL_BYTES_MAX));
        assert_eq!(Target::parse(&long, Sender::Operator), Err(Form));
    }

    /// What a name leads to is looked at where it is connected to.
    #[tokio::test]
    async fn a_name_of_this_machine_is_no_public_one() {
        let found = Reach::Loopback.look_up("localhost").await.unwrap();
        assert!(found.iter().all(|address| address.ip().is_loopback()));
        let refused = Reach::Public.look_up("localhost").await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
        let target = Target::parse("https://localhost/", Sender::Owner).unwrap();
        assert_eq!(target.look().await, Err(TargetError::NotPublic));
        let target = Target::parse("http://localhost/", Sender::Operator).unwrap();
        assert_eq!(target.look().await, Ok(()));
    }
}
