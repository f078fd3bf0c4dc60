//! Where an HTTP client is.
//!
//! Owns: whom to believe. A header that anybody can send counts only when a proxy sent it that the
//! operator named.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, request::Parts},
};
use model::Network;

use super::{
    App,
    error::{ApiError, ApiResult, ErrorCode},
};

const FORWARDED_FOR: &str = "x-forwarded-for";

/// The other end of the connection that a request came on. Every request has it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer(pub(crate) SocketAddr);

/// The client's address: the connection's, or, where that is one of `trusted`, the last in
/// `X-Forwarded-For` that is not.
///
/// # Errors
///
/// [`ErrorCode::Internal`] when the listener did not say: fail closed.
pub(crate) fn client_address(parts: &Parts, trusted: &[Network]) -> ApiResult<SocketAddr> {
    let Peer(peer) = parts.extensions.get().ok_or(ErrorCode::Internal)?;
    Ok(behind(*peer, &parts.headers, trusted))
}

/// The same, for a handler.
pub(crate) struct Client(pub(crate) SocketAddr);

impl FromRequestParts<Arc<App>> for Client {
    type Rejection = ApiError;
    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> ApiResult<Self> {
        client_address(parts, &app.config.forwarded_from).map(Self)
    }
}

fn behind(peer: SocketAddr, headers: &HeaderMap, trusted: &[Network]) -> SocketAddr {
    let is_trusted = |address: IpAddr| trusted.iter().any(|network| network.contains(address));
    if !is_trusted(peer.ip()) {
        return peer;
    }
    let mut last = peer;
    let values = headers.get_all(FORWARDED_FOR).iter().rev();
    let texts = values.flat_map(|value| value.to_str().unwrap_or_default().rsplit(','));
    for text in texts {
        // What a proxy of ours did not write ends the chain.
        let Ok(address) = text.trim().parse::<IpAddr>() else {
            break;
        };
        last = SocketAddr::new(address, 0);
        if !is_trusted(address) {
            break;
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_named_proxy_speaks_for_others() {
        let trusted: Vec<Network> = vec!["10.0.0.0/8".parse().unwrap()];
        let check = |peer: &str, values: &[&str], want: &str| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(FORWARDED_FOR, value.parse().unwrap());
            }
            let found = behind(peer.parse().unwrap(), &headers, &trusted);
            assert_eq!(
                found.ip(),
                want.parse::<IpAddr>().unwrap(),
                "{peer} {values:?}"
            );
        };
        check("192.0.2.1:5", &["198.51.100.1"], "192.0.2.1");
        check("10.0.0.1:5", &[], "10.0.0.1");
        check("10.0.0.1:5", &["198.51.100.1"], "198.51.100.1");
        check(
            "10.0.0.1:5",
            &["203.0.113.9, 198.51.100.1, 10.0.0.2"],
            "198.51.100.1",
        );
        check(
            "10.0.0.1:5",
            &["203.0.113.9", "198.51.100.1"],
            "198.51.100.1",
        );
        check("10.0.0.1:5", &["nonsense"], "10.0.0.1");
        check(
            "10.0.0.1:5",
            &["203.0.113.9, nonsense, 10.0.0.2"],
            "10.0.0.2",
        );
        check("10.0.0.1:5", &["2001:db8::1"], "2001:db8::1");
    }
}
