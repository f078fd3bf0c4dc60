//! `tenantry completion`.

use clap::CommandFactory as _;
use clap_complete::{Shell as Target, generate};

use crate::{
    args::{Cli, Shell},
    exit::Failure,
    output,
};

/// Prints the script of `shell`.
///
/// # Errors
///
/// When standard output is closed.
pub(super) fn print(shell: Shell) -> Result<(), Failure> {
    let target = match shell {
        Shell::Bash => Target::Bash,
        Shell::Zsh => Target::Zsh,
        Shell::Fish => Target::Fish,
    };
    let mut script = Vec::new();
    generate(target, &mut Cli::command(), "tenantry", &mut script);
    output::text(&String::from_utf8_lossy(&script))
}
