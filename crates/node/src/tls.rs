//! TLS towards a node, for the platform's own connections.

use model::route::NodeTls;
use tokio_postgres_rustls::MakeRustlsConnect;

/// A connector for [`NodeTls`]. With `Disable` it is there and never asked.
///
/// # Errors
///
/// What is wrong with the roots, in words for the operator.
pub(crate) fn connector(tls: &NodeTls) -> Result<MakeRustlsConnect, String> {
    ::tls::client_config(tls)
        .map(MakeRustlsConnect::new)
        .map_err(|error| {
            let sources =
                std::iter::successors(std::error::Error::source(&error), |cause| cause.source());
            sources.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
        })
}
