//! `tenantry`: the one binary.
//!
//! Owns: the command line, and what each command prints and exits with. [`serve`] assembles the
//! control plane, the proxy and the node into one process; everything under [`user`] is a client
//! of the public API and knows nothing that another client could not know.

mod args;
#[cfg(test)]
mod documents;
mod exit;
mod output;
mod serve;
mod user;

use std::process::ExitCode;

use clap::Parser;

use crate::args::{Cli, Command};

/// Keeps the memory of ten thousand short connections flatter than the system's allocator does.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // One TLS library for every part of the process; a second provider in the tree would make
    // the choice ambiguous, and this line a panic in none of the tests but at the first handshake.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();

    let cli = Cli::parse();
    let done = match cli.command {
        Command::Serve(serve) => serve::run(&serve),
        command => user::run(command, cli.global),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.print();
            failure.exit().into()
        }
    }
}
