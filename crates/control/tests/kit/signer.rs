//! Tokens as an issuer signs them.

use aws_lc_rs::{encoding::AsDer, rsa, signature};
use jsonwebtoken::{Algorithm, EncodingKey, Header, jwk::Jwk};
use serde_json::Value;

/// A key that signs.
pub struct Signer {
    pub kid: String,
    pub algorithm: Algorithm,
    pub key: EncodingKey,
}

impl Signer {
    pub fn new(kid: &str, algorithm: Algorithm) -> Self {
        let key = match algorithm {
            Algorithm::RS256 => {
                let pair = rsa::KeyPair::generate(rsa::KeySize::Rsa2048).unwrap();
                let der = AsDer::<aws_lc_rs::encoding::Pkcs8V1Der<'_>>::as_der(&pair).unwrap();
                // Inside of PKCS#8, whose head has 26 bytes for keys of this size, lies PKCS#1.
                EncodingKey::from_rsa_der(&der.as_ref()[26..])
            }
            Algorithm::ES256 => {
                let rng = aws_lc_rs::rand::SystemRandom::new();
                let form = &signature::ECDSA_P256_SHA256_FIXED_SIGNING;
                let der = signature::EcdsaKeyPair::generate_pkcs8(form, &rng).unwrap();
                EncodingKey::from_ec_der(der.as_ref())
            }
            Algorithm::EdDSA => {
                let pair = signature::Ed25519KeyPair::generate().unwrap();
                let der = pair.to_pkcs8v1().unwrap();
                EncodingKey::from_ed_der(der.as_ref())
            }
            other => panic!("{other:?}"),
        };
        Self {
            kid: kid.to_owned(),
            algorithm,
            key,
        }
    }

    pub fn public(&self) -> Value {
        let mut jwk = Jwk::from_encoding_key(&self.key, self.algorithm).unwrap();
        jwk.common.key_id = Some(self.kid.clone());
        serde_json::to_value(jwk).unwrap()
    }

    pub fn sign(&self, claims: &Value) -> String {
        let mut header = Header::new(self.algorithm);
        header.kid = Some(self.kid.clone());
        jsonwebtoken::encode(&header, claims, &self.key).unwrap()
    }
}

/// Seconds since 1970, as claims say times.
pub fn now() -> i64 {
    let now = std::time::SystemTime::now();
    let since = now.duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(since.as_secs()).unwrap()
}
