//! `tenantry serve`: settings, then the whole process.

mod config;
mod files;
mod settings;
mod tls;

use crate::exit::{Exit, Failure};

pub(crate) use settings::ServeArgs;

/// Runs the server until it is told to stop.
///
/// # Errors
///
/// [`Exit::Usage`] for mistakes in the settings, all of them.
pub(crate) fn run(args: &ServeArgs) -> Result<(), Failure> {
    let raw = args.gather(|name| std::env::var_os(name));
    let _config = config::Config::validate(raw).map_err(|mistakes| {
        for mistake in &mistakes {
            eprintln!("error: {mistake}");
        }
        Failure::Told(Exit::Usage)
    })?;
    if args.check_only() {
        eprintln!("the settings are right");
        return Ok(());
    }
    Err(Failure::new(Exit::Failed, "not assembled yet", ""))
}
