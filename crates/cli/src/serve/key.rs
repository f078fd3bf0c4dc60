//! The installation's key at a start.
//!
//! Owns: that nothing is begun with a key that the catalog does not belong to. Does not own: the file ([`files`]), and how
//! the catalog knows ([`control::refuse_other_key`]).

use std::{fs, path::Path};

use control::Keys;

use crate::{
    exit::Failure,
    serve::{config::Config, files, told},
};

/// Reads it, or makes it when it is not there. One that is refused is not left behind when it was made just now.
///
/// # Errors
///
/// A sentence for the operator. Nothing was changed.
pub(super) async fn of(
    config: &Config,
    catalog: node::CatalogConfig,
    dir: &Path,
) -> Result<[u8; 32], Failure> {
    let file = dir.join("installation.key");
    let was_there = file.exists();
    let secret = files::installation_key(&file).map_err(|error| told::file(&error, dir))?;
    if config.replace_installation_key {
        return Ok(secret);
    }
    match control::refuse_other_key(catalog, &Keys::derive(&secret)).await {
        Ok(()) => Ok(secret),
        Err(error) => {
            if !was_there {
                fs::remove_file(&file)?;
            }
            Err(told::control(config, dir, error))
        }
    }
}
