//! The whole-system tests.
fn main() {}
