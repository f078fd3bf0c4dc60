//! Reading a set of keys.
//!
//! Owns: its bounds, and which keys are usable. RFC 7517, section 5; RFC 8037 for Ed25519.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, LazyLock},
    time::Duration,
};

use jsonwebtoken::{
    Algorithm, DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse},
};
use serde::Deserialize;
use serde_json::Value;
use tokio::io::AsyncReadExt;

use super::KeySource;

/// Time for the whole answer. A request of a user waits for it.
const TIME_MAX: Duration = Duration::from_secs(5);
/// Size of it. Issuers have a handful of keys of half a kilobyte.
const BYTES_MAX: usize = 256 << 10;
/// Keys of one issuer that are looked at.
const KEYS_MAX: usize = 64;

/// A key that a signature is checked with, and the only algorithm it is for.
pub(super) struct Key {
    pub(super) algorithm: Algorithm,
    pub(super) decoding: DecodingKey,
}

/// Why there are none.
#[derive(Debug, thiserror::Error)]
pub(super) enum SourceError {
    #[error("read the file")]
    File(#[source] io::Error),
    #[error("ask for them")]
    Http(#[source] reqwest::Error),
    #[error("the answer has the status {0}")]
    Status(u16),
    #[error("there are more than {BYTES_MAX} bytes")]
    TooLarge,
    #[error("it is no set of keys")]
    Form(#[source] serde_json::Error),
    #[error("no key in it is for RS256, ES256 or EdDSA")]
    NoneUsable,
}

/// Reads them, whole, within bounds. Redirects are not followed: the operator said where.
pub(super) async fn read(source: &KeySource) -> Result<HashMap<String, Arc<Key>>, SourceError> {
    let bytes = match source {
        KeySource::File(path) => {
            let file = tokio::fs::File::open(path)
                .await
                .map_err(SourceError::File)?;
            let mut bytes = Vec::new();
            let mut limited = file.take(BYTES_MAX as u64 + 1);
            limited
                .read_to_end(&mut bytes)
                .await
                .map_err(SourceError::File)?;
            bytes
        }
        KeySource::Url(url) => fetch(url).await?,
    };
    if bytes.len() > BYTES_MAX {
        return Err(SourceError::TooLarge);
    }
    usable(&bytes)
}

static CLIENT: LazyLock<Result<reqwest::Client, reqwest::Error>> = LazyLock::new(|| {
    reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(TIME_MAX)
        // Asked for too seldom for an open connection to be worth anything.
        .pool_max_idle_per_host(0)
        .build()
});

async fn fetch(url: &url::Url) -> Result<Vec<u8>, SourceError> {
    let client = match &*CLIENT {
        Ok(client) => client.clone(),
        Err(error) => {
            return Err(SourceError::File(io::Error::other(error.to_string())));
        }
    };
    let asked = client.get(url.clone()).send().await;
    let mut answer = asked.map_err(SourceError::Http)?;
    if answer.status() != reqwest::StatusCode::OK {
        return Err(SourceError::Status(answer.status().as_u16()));
    }
    let mut bytes = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(SourceError::Http)? {
        if bytes.len() + chunk.len() > BYTES_MAX {
            return Err(SourceError::TooLarge);
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

#[derive(Deserialize)]
struct Set {
    keys: Vec<Value>,
}

/// Keys that are not understood are left out, as RFC 7517 says; that none is left is an error.
fn usable(bytes: &[u8]) -> Result<HashMap<String, Arc<Key>>, SourceError> {
    let set: Set = serde_json::from_slice(bytes).map_err(SourceError::Form)?;
    let mut keys = HashMap::new();
    for value in set.keys.into_iter().take(KEYS_MAX) {
        if let Some((kid, key)) = key(value) {
            // The first of a name stays: which of them was meant, nobody could tell.
            keys.entry(kid).or_insert_with(|| Arc::new(key));
        }
    }
    if keys.is_empty() {
        return Err(SourceError::NoneUsable);
    }
    Ok(keys)
}

fn key(value: Value) -> Option<(String, Key)> {
    let jwk: Jwk = serde_json::from_value(value).ok()?;
    let algorithm = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => Algorithm::RS256,
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => {
            Algorithm::ES256
        }
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => {
            Algorithm::EdDSA
        }
        // Symmetric ones above all: with them whoever reads the set could sign.
        _ => return None,
    };
    let said = jwk.common.key_algorithm.map(|said| said.to_string());
    if said.is_some_and(|said| said != format!("{algorithm:?}")) {
        return None;
    }
    if !matches!(
        jwk.common.public_key_use,
        None | Some(PublicKeyUse::Signature)
    ) {
        return None;
    }
    let decoding = DecodingKey::from_jwk(&jwk).ok()?;
    let key = Key {
        algorithm,
        decoding,
    };
    Some((jwk.common.key_id?, key))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const X: &str = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
    const N: &str = "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw";

    #[test]
    fn only_public_keys_for_the_three_algorithms_are_used() {
        let set = json!({"keys": [
            {"kty": "OKP", "crv": "Ed25519", "x": X, "kid": "ed"},
            {"kty": "OKP", "crv": "Ed25519", "x": X, "kid": "named", "alg": "EdDSA", "use": "sig"},
            {"kty": "RSA", "n": N, "e": "AQAB", "kid": "rsa"},
            {"kty": "RSA", "n": N, "e": "AQAB", "kid": "rs512", "alg": "RS512"},
            {"kty": "RSA", "n": N, "e": "AQAB", "kid": "enc", "use": "enc"},
            {"kty": "oct", "k": "c2VjcmV0", "kid": "hmac", "alg": "HS256"},
            {"kty": "OKP", "crv": "Ed25519", "x": X},
            {"kty": "future", "kid": "unknown"},
            7,
        ]});
        let keys = usable(set.to_string().as_bytes()).unwrap();
        let mut names: Vec<_> = keys.keys().map(String::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["ed", "named", "rsa"]);
        assert_eq!(keys["rsa"].algorithm, Algorithm::RS256);

        let only_hmac = json!({"keys": [{"kty": "oct", "k": "c2VjcmV0", "kid": "a"}]});
        for wrong in [only_hmac.to_string(), "{}".to_owned(), "<html>".to_owned()] {
            assert!(usable(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }
}
