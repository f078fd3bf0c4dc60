//! The test kit: starts whole stacks for system tests.
