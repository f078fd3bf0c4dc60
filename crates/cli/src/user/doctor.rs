//! `tenantry doctor`.
use crate::{
    args::{DoctorArgs, Global},
    exit::Failure,
};
pub(super) async fn doctor(_args: &DoctorArgs, _global: &Global) -> Result<(), Failure> {
    Ok(())
}
