//! What may be told to a client.

/// An error that a client may see. Only types that implement this can be sent to one.
///
/// The texts name no node, address or other tenant. `docs/errors.md` lists every implementation.
pub trait Public {
    /// PostgreSQL manual, appendix A, "PostgreSQL Error Codes".
    fn sqlstate(&self) -> &'static str;
    /// Lowercase, no full stop, like the server's own.
    fn message(&self) -> String;
    /// What the client can do about it. Empty when there is nothing.
    fn hint(&self) -> &'static str;
}
