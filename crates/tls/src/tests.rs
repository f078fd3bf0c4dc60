//! Every word of `sslmode` against every kind of server, through whole handshakes in memory.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{
    ClientConnection, ServerConfig, ServerConnection,
    pki_types::{PrivateKeyDer, ServerName},
};

use super::*;

/// A file that is gone afterwards.
struct Pem(PathBuf);

impl Pem {
    fn with(text: &str) -> Self {
        let name = format!("tenantry-tls-{:032x}.pem", rand::random::<u128>());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, text).unwrap();
        Self(path)
    }
}

impl Drop for Pem {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A server named `db.example`.
fn server(by: &CertifiedIssuer<'static, KeyPair>, expired: bool) -> Arc<ServerConfig> {
    let mut params = CertificateParams::new(["db.example".to_owned()]).unwrap();
    if expired {
        params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    }
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, by).unwrap();
    let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    config.alpn_protocols = vec![b"postgresql".to_vec()];
    Arc::new(config)
}

/// Whether a handshake with `server`, reached by `name`, comes to its end.
fn accepts(tls: &NodeTls, server: &Arc<ServerConfig>, name: &'static str) -> bool {
    let config = Arc::new(client_config(tls).unwrap());
    let name = ServerName::try_from(name).unwrap();
    let mut client = ClientConnection::new(config, name).unwrap();
    let mut server = ServerConnection::new(server.clone()).unwrap();
    while client.is_handshaking() || server.is_handshaking() {
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        server.read_tls(&mut bytes.as_slice()).unwrap();
        server.process_new_packets().unwrap();
        bytes.clear();
        server.write_tls(&mut bytes).unwrap();
        client.read_tls(&mut bytes.as_slice()).unwrap();
        if client.process_new_packets().is_err() {
            return false;
        }
    }
    assert_eq!(client.alpn_protocol(), Some(&b"postgresql"[..]));
    true
}

#[test]
fn each_word_checks_what_libpq_checks_and_no_less() {
    let (ours, other) = (authority(), authority());
    let (good, expired, foreign) = (
        server(&ours, false),
        server(&ours, true),
        server(&other, false),
    );
    let roots = Pem::with(&ours.pem());
    let modes = [
        NodeTls::Require,
        NodeTls::VerifyCa(Some(roots.0.clone())),
        NodeTls::VerifyFull(Some(roots.0.clone())),
        // The system's roots know none of them.
        NodeTls::VerifyCa(None),
        NodeTls::VerifyFull(None),
    ];
    // columns: require verify-ca verify-full, then both with the system's roots
    for (kind, server, name, expected) in [
        (
            "good",
            &good,
            "db.example",
            [true, true, true, false, false],
        ),
        (
            "other name",
            &good,
            "db.other",
            [true, true, false, false, false],
        ),
        (
            "expired",
            &expired,
            "db.example",
            [true, false, false, false, false],
        ),
        (
            "foreign",
            &foreign,
            "db.example",
            [true, false, false, false, false],
        ),
    ] {
        for (mode, expected) in modes.iter().zip(expected) {
            let is_system = matches!(mode, NodeTls::VerifyCa(None) | NodeTls::VerifyFull(None));
            if is_system && matches!(client_config(mode), Err(TlsError::NoSystemRoots)) {
                continue;
            }
            assert_eq!(accepts(mode, server, name), expected, "{kind} {mode:?}");
        }
    }
}

/// Whoever answers must own the key of the certificate it shows, also with `require`.
#[test]
fn a_certificate_without_its_key_is_refused_by_every_word() {
    let ours = authority();
    let roots = Pem::with(&ours.pem());
    let (shown, own) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let params = CertificateParams::new(["db.example".to_owned()]).unwrap();
    let certificate = params.signed_by(&shown, &ours).unwrap();
    let provider = aws_lc_rs::default_provider();
    let key = PrivateKeyDer::from_pem_slice(own.serialize_pem().as_bytes()).unwrap();
    let key = provider.key_provider.load_private_key(key).unwrap();
    // `new` does not compare the two; the builder of a configuration does.
    let stolen = rustls::sign::CertifiedKey::new(vec![certificate.der().clone()], key);
    let mut server = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(stolen)));
    server.alpn_protocols = vec![b"postgresql".to_vec()];
    let server = Arc::new(server);
    for mode in [
        NodeTls::Require,
        NodeTls::VerifyCa(Some(roots.0.clone())),
        NodeTls::VerifyFull(Some(roots.0.clone())),
    ] {
        assert!(!accepts(&mode, &server, "db.example"), "{mode:?}");
    }
}

#[test]
fn roots_that_cannot_be_used_are_named() {
    let text = |tls: NodeTls| client_config(&tls).unwrap_err().to_string();
    let missing = PathBuf::from("/nowhere/roots.pem");
    let (empty, broken) = (
        Pem::with("nothing\n"),
        Pem::with("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
    );
    for (file, what) in [
        (&missing, "cannot be read"),
        (&empty.0, "no certificate in it"),
        (&broken.0, "a certificate in it cannot be used"),
    ] {
        let expected = format!("sslrootcert {}: {what}", file.display());
        assert_eq!(text(NodeTls::VerifyCa(Some(file.clone()))), expected);
        assert_eq!(text(NodeTls::VerifyFull(Some(file.clone()))), expected);
    }
}
