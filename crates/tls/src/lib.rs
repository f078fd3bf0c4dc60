//! TLS towards nodes, as libpq's words for `sslmode` mean it.
//!
//! Owns: what of a node's certificate is checked, for the data plane and for the platform's own
//! connections alike, so that both trust the same nodes. Does not own: handshakes, or when TLS is
//! asked for.

mod verify;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use model::route::NodeTls;
use rustls::{
    ClientConfig, RootCertStore,
    client::{VerifierBuilderError, WebPkiServerVerifier, danger::ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{
        CertificateDer,
        pem::{self, PemObject},
    },
};

use verify::{AnyCertificate, AnyName};

/// Why TLS towards a node cannot be set up. For the operator; `source` says more.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file of root certificates cannot be read.
    #[error("sslrootcert {}: cannot be read", file.display())]
    Roots {
        /// As the operator named it.
        file: PathBuf,
        /// Why.
        source: pem::Error,
    },
    /// A certificate in it cannot be used as a root.
    #[error("sslrootcert {}: a certificate in it cannot be used", file.display())]
    Root {
        /// As the operator named it.
        file: PathBuf,
        /// Why.
        source: rustls::Error,
    },
    /// There is none in it.
    #[error("sslrootcert {}: no certificate in it", file.display())]
    NoRoots {
        /// As the operator named it.
        file: PathBuf,
    },
    /// No file was named, and the system has none either.
    #[error("the system has no root certificates: name some with sslrootcert")]
    NoSystemRoots,
    /// The roots are of no use to a verifier.
    #[error("build the certificate verifier of a node")]
    Verifier(#[source] VerifierBuilderError),
    /// The library does not support what it should.
    #[error("set up TLS")]
    Library(#[source] rustls::Error),
}

/// The client's side of TLS towards a node. With `Disable` it is there and never used.
///
/// Files are read anew with every call, so a changed file of roots is noticed.
///
/// # Errors
///
/// [`TlsError`].
pub fn client_config(tls: &NodeTls) -> Result<ClientConfig, TlsError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier: Arc<dyn ServerCertVerifier> = match tls {
        NodeTls::Disable | NodeTls::Require => Arc::new(AnyCertificate(provider.clone())),
        NodeTls::VerifyCa(roots) => Arc::new(AnyName(web_pki(roots.as_deref(), &provider)?)),
        NodeTls::VerifyFull(roots) => web_pki(roots.as_deref(), &provider)?,
    };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Library)?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    // As libpq since 17; older servers look at no ALPN.
    config.alpn_protocols = vec![b"postgresql".to_vec()];
    Ok(config)
}

fn web_pki(
    roots: Option<&Path>,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<WebPkiServerVerifier>, TlsError> {
    let roots = match roots {
        Some(file) => roots_in(file)?,
        None => system_roots()?,
    };
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .build()
        .map_err(TlsError::Verifier)
}

fn roots_in(file: &Path) -> Result<RootCertStore, TlsError> {
    let unreadable = |source| TlsError::Roots {
        file: file.to_owned(),
        source,
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(file).map_err(unreadable)? {
        let certificate = certificate.map_err(unreadable)?;
        roots.add(certificate).map_err(|source| TlsError::Root {
            file: file.to_owned(),
            source,
        })?;
    }
    if roots.is_empty() {
        let file = file.to_owned();
        return Err(TlsError::NoRoots { file });
    }
    Ok(roots)
}

fn system_roots() -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err(TlsError::NoSystemRoots);
    }
    Ok(roots)
}

#[cfg(test)]
mod tests;
