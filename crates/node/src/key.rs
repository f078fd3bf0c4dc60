//! Passwords of server logins: derived, never stored.

/// Key of a node: the passwords of all its logins are derived from it.
#[derive(Clone)]
pub struct NodeKey(pub(crate) [u8; 32]);

impl std::fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NodeKey(..)")
    }
}
