//! Certificate and key: given by the operator, or made on first start.
//!
//! Owns: reading them, making a self-signed one, what clients will think of it, and what both
//! listeners offer.

use std::{
    fmt, fs,
    net::{Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context as _;
use model::Secret;
use rustls::{
    CertificateError, RootCertStore,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier as _},
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _},
    server::NoServerSessionStorage,
};

use crate::serve::files;

/// Certificate chain and key of this server.
pub(super) struct Identity {
    /// Leaf first.
    chain: Vec<CertificateDer<'static>>,
    /// The same as it was read.
    pub(super) chain_pem: Vec<u8>,
    /// The key as it was read.
    pub(super) key_pem: Secret,
    key: PrivateKeyDer<'static>,
    /// Where the chain was read from: clients that verify need it as their root.
    pub(super) file: PathBuf,
    /// Made by us, so nobody knows it.
    pub(super) self_signed: bool,
    /// Made just now.
    pub(super) fresh: bool,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.file.display())
    }
}

/// What is wrong with the two files. At least one of the two is said.
#[derive(Debug, Default)]
pub(super) struct WrongFiles {
    /// With the file of the certificate.
    pub(super) cert: Option<String>,
    /// With the file of the key, or with the key for that certificate.
    pub(super) key: Option<String>,
}

impl From<WrongFiles> for anyhow::Error {
    fn from(wrong: WrongFiles) -> Self {
        let both: Vec<String> = wrong.cert.into_iter().chain(wrong.key).collect();
        anyhow::anyhow!(both.join("; "))
    }
}

impl Identity {
    /// Reads what the operator gave.
    ///
    /// # Errors
    ///
    /// [`WrongFiles`]: all that is wrong with both.
    pub(super) fn read(cert: &Path, key: &Path) -> Result<Self, WrongFiles> {
        let (chain, key) = match (read_chain(cert), read_key(key)) {
            (Ok(chain), Ok(key)) => (chain, key),
            (chain, key) => {
                return Err(WrongFiles {
                    cert: chain.err(),
                    key: key.err(),
                });
            }
        };
        let ((chain_pem, chain), (key_pem, key)) = (chain, key);
        let identity = Self {
            chain,
            key,
            chain_pem,
            key_pem,
            file: cert.to_owned(),
            self_signed: false,
            fresh: false,
        };
        match identity.server(&[]) {
            Ok(_) => Ok(identity),
            Err(error @ rustls::Error::InconsistentKeys(_)) => Err(WrongFiles {
                key: Some(format!(
                    "is not the key of the certificate in {} ({error})",
                    cert.display()
                )),
                ..WrongFiles::default()
            }),
            Err(error) => Err(WrongFiles {
                cert: Some(format!("{} cannot be used: {error}", cert.display())),
                ..WrongFiles::default()
            }),
        }
    }

    /// Why clients that verify the certificate will not accept it, whatever they trust; `None` when
    /// nothing is known.
    pub(super) fn doubt(&self) -> Option<String> {
        let leaf = self.chain.first()?;
        let mut roots = RootCertStore::empty();
        roots.add(leaf.clone()).ok()?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(roots.into(), provider);
        let name = ServerName::try_from("localhost").ok()?;
        let verified =
            verifier
                .build()
                .ok()?
                .verify_server_cert(leaf, &[], &name, &[], UnixTime::now());
        // What concerns the certificate alone is looked at before issuer and name.
        let why = match verified.err()? {
            rustls::Error::InvalidCertificate(
                CertificateError::Expired | CertificateError::ExpiredContext { .. },
            ) => "has expired",
            rustls::Error::InvalidCertificate(
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. },
            ) => "is not valid yet",
            error if is_authority(&error) => {
                "is that of an authority (CA:TRUE): tenantry's own command line and others refuse it for \
                 a server. Use it to sign one for this server, or make it with `openssl req -x509 … \
                 -addext basicConstraints=critical,CA:FALSE`"
            }
            _ => return None,
        };
        Some(format!("the certificate in {} {why}", self.file.display()))
    }

    /// Reads the certificate in `dir`, making a self-signed one for `names` when there is none.
    ///
    /// # Errors
    ///
    /// When it cannot be read, made or written.
    pub(super) fn read_or_make(dir: &Path, names: &[String]) -> anyhow::Result<Self> {
        let (cert, key) = (dir.join("server.crt"), dir.join("server.key"));
        let fresh = !cert.try_exists()?;
        if fresh {
            fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
            // A crash between the two files leaves a key without a certificate: begin anew.
            let _ = fs::remove_file(&key);
            let made = rcgen::generate_simple_self_signed(all_names(names))
                .context("make a self-signed certificate")?;
            files::write_once(&key, made.signing_key.serialize_pem().as_bytes(), 0o600)
                .with_context(|| format!("write {}", key.display()))?;
            files::write_once(&cert, made.cert.pem().as_bytes(), 0o644)
                .with_context(|| format!("write {}", cert.display()))?;
        }
        Ok(Self {
            self_signed: true,
            fresh,
            ..Self::read(&cert, &key)?
        })
    }

    /// What a listener offers, for clients that speak one of `protocols` (ALPN).
    ///
    /// No session tickets: a ticket key in memory would weaken forward secrecy, and connections to
    /// a database live long. Two key exchanges, both quick and small: a large post-quantum hello
    /// stalls on some paths.
    ///
    /// # Errors
    ///
    /// When key and certificate do not belong together.
    pub(super) fn config(&self, protocols: &[&str]) -> anyhow::Result<Arc<rustls::ServerConfig>> {
        self.server(protocols)
            .with_context(|| format!("the certificate in {} and its key", self.file.display()))
    }

    fn server(&self, protocols: &[&str]) -> Result<Arc<rustls::ServerConfig>, rustls::Error> {
        let provider = CryptoProvider {
            kx_groups: vec![aws_lc_rs::kx_group::X25519, aws_lc_rs::kx_group::SECP256R1],
            ..aws_lc_rs::default_provider()
        };
        let mut config = rustls::ServerConfig::builder_with_provider(Arc::new(provider))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(self.chain.clone(), self.key.clone_key())?;
        config.alpn_protocols = protocols
            .iter()
            .map(|name| name.as_bytes().to_vec())
            .collect();
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(Arc::new(config))
    }
}

/// Whether a certificate was refused because it is that of an authority. `rustls` has no variant for it.
pub(crate) fn is_authority(error: &rustls::Error) -> bool {
    error.to_string().contains("CaUsedAsEndEntity")
}

fn read_chain(path: &Path) -> Result<(Vec<u8>, Vec<CertificateDer<'static>>), String> {
    let pem = fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .unwrap_or_default();
    if chain.is_empty() {
        return Err(format!(
            "{} holds no certificate in PEM form",
            path.display()
        ));
    }
    Ok((pem, chain))
}

fn read_key(path: &Path) -> Result<(Secret, PrivateKeyDer<'static>), String> {
    let pem = fs::read_to_string(path)
        .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    let key = PrivateKeyDer::from_pem_slice(pem.as_bytes())
        .map_err(|_| format!("{} holds no private key in PEM form", path.display()))?;
    Ok((Secret::new(pem), key))
}

/// Names a client on this machine may use, and the given ones.
fn all_names(names: &[String]) -> Vec<String> {
    let mut all = vec![
        "localhost".to_owned(),
        Ipv4Addr::LOCALHOST.to_string(),
        Ipv6Addr::LOCALHOST.to_string(),
    ];
    let host = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned();
    for name in names.iter().chain([&host]) {
        if !name.is_empty() && !all.contains(name) {
            all.push(name.clone());
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_made_once_and_serves() {
        let scratch = scratch::Scratch::new();
        let dir = scratch.join("tls");
        let first = Identity::read_or_make(&dir, &["db.example.org".into()]).unwrap();
        let again = Identity::read_or_make(&dir, &[]).unwrap();
        assert!(first.fresh && !again.fresh);
        assert_eq!(first.chain, again.chain);
        assert!(first.config(&["postgresql"]).is_ok());
        assert_eq!(first.doubt(), None);
        let (key, cert) = (dir.join("server.key"), dir.join("server.crt"));
        let wrong = Identity::read(&key, &cert).unwrap_err();
        assert!(wrong.cert.is_some() && wrong.key.is_some(), "{wrong:?}");
    }

    #[test]
    fn a_certificate_that_no_client_will_accept_is_told() {
        let dir = scratch::Scratch::new();
        let mut authority = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
        authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let mut expired = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
        expired.not_after = rcgen::date_time_ymd(2020, 1, 1);
        for (params, part) in [(authority, "authority (CA:TRUE)"), (expired, "has expired")] {
            let key = rcgen::KeyPair::generate().unwrap();
            let (cert_file, key_file) = (dir.join("cert.pem"), dir.join("key.pem"));
            fs::write(&cert_file, params.self_signed(&key).unwrap().pem()).unwrap();
            fs::write(&key_file, key.serialize_pem()).unwrap();
            let doubt = Identity::read(&cert_file, &key_file).unwrap().doubt();
            assert!(
                doubt.as_ref().is_some_and(|text| text.contains(part)),
                "{doubt:?}"
            );
            // Another's key.
            fs::write(
                &key_file,
                rcgen::KeyPair::generate().unwrap().serialize_pem(),
            )
            .unwrap();
            let wrong = Identity::read(&cert_file, &key_file).unwrap_err();
            let said = wrong.key.expect("the key does not fit");
            assert!(said.contains("is not the key of the certificate"), "{said}");
        }
    }
}
