//! Certificate and key: given by the operator, or made on first start.
//!
//! Owns: reading them, making a self-signed one, and what both listeners offer.

use std::{fs, net::Ipv4Addr, net::Ipv6Addr, path::Path, path::PathBuf, sync::Arc};

use anyhow::{Context as _, bail};
use model::Secret;
use rustls::{
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
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

impl Identity {
    /// Reads what the operator gave.
    ///
    /// # Errors
    ///
    /// When a file cannot be read or does not hold what it should.
    pub(super) fn read(cert: &Path, key: &Path) -> anyhow::Result<Self> {
        let chain_pem = fs::read(cert).with_context(|| format!("read {}", cert.display()))?;
        let key_pem = fs::read_to_string(key).with_context(|| format!("read {}", key.display()))?;
        let key_pem = Secret::new(key_pem);
        let chain = CertificateDer::pem_slice_iter(&chain_pem)
            .collect::<Result<Vec<_>, _>>()
            .with_context(|| format!("{} holds no certificate in PEM form", cert.display()))?;
        if chain.is_empty() {
            bail!("{} holds no certificate in PEM form", cert.display());
        }
        let key = PrivateKeyDer::from_pem_slice(key_pem.reveal().as_bytes())
            .with_context(|| format!("{} holds no private key in PEM form", key.display()))?;
        let identity = Self {
            chain,
            key,
            chain_pem,
            key_pem,
            file: cert.to_owned(),
            self_signed: false,
            fresh: false,
        };
        identity.config(&[])?;
        Ok(identity)
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
        let provider = CryptoProvider {
            kx_groups: vec![aws_lc_rs::kx_group::X25519, aws_lc_rs::kx_group::SECP256R1],
            ..aws_lc_rs::default_provider()
        };
        let mut config = rustls::ServerConfig::builder_with_provider(Arc::new(provider))
            .with_safe_default_protocol_versions()
            .context("TLS versions")?
            .with_no_client_auth()
            .with_single_cert(self.chain.clone(), self.key.clone_key())
            .with_context(|| format!("the certificate in {} and its key", self.file.display()))?;
        config.alpn_protocols = protocols
            .iter()
            .map(|name| name.as_bytes().to_vec())
            .collect();
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(Arc::new(config))
    }
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
        let dir = std::env::temp_dir().join(format!("tenantry-tls-{}", std::process::id()));
        let first = Identity::read_or_make(&dir, &["db.example.org".into()]).unwrap();
        let again = Identity::read_or_make(&dir, &[]).unwrap();
        assert!(first.fresh && !again.fresh);
        assert_eq!(first.chain, again.chain);
        assert!(first.config(&["postgresql"]).is_ok());
        assert!(Identity::read(&dir.join("server.key"), &dir.join("server.crt")).is_err());
        fs::remove_dir_all(dir).unwrap();
    }
}
