//! What the control plane writes into the audit log.
//!
//! Owns: which requests are written down and with which words ([`action`], [`layer`]), what the program does
//! by itself, the copy of the log that the API shows ([`copy`], [`http`]). Does not own: the log (`audit`).

pub(crate) mod action;
pub(crate) mod copy;
pub(crate) mod http;
pub(crate) mod layer;
mod store;

use std::{cell::RefCell, fmt::Display};

use audit::{Event, Logs};
use axum::http::request::Parts;
use model::{ProjectId, TenantId, exposition::Page};

use crate::api::{App, address::client_address, error::ApiError, layers::RequestId};

/// What a request turned out to be about.
#[derive(Clone, Debug, Default)]
pub(crate) struct About {
    /// Databases it had to do with, and whose they are; the one that was named comes first.
    pub(crate) tenants: Vec<(TenantId, ProjectId)>,
    /// The id of what was made.
    pub(crate) made: Option<String>,
    /// The project, where no database says it.
    pub(crate) project: Option<ProjectId>,
}

tokio::task_local! {
    /// Of the request that is worked on. Not there for anything else.
    static ABOUT: RefCell<About>;
}

/// The request that is worked on, if there is one, has to do with this database.
pub(crate) fn touched(tenant: &TenantId, project: &ProjectId) {
    let _ = ABOUT.try_with(|about| {
        let tenants = &mut about.borrow_mut().tenants;
        if !tenants.iter().any(|(known, _)| known == tenant) {
            tenants.push((tenant.clone(), project.clone()));
        }
    });
}

/// The request that is worked on made something with this id. It is no secret.
pub(crate) fn made(id: &impl Display) {
    let _ = ABOUT.try_with(|about| about.borrow_mut().made = Some(id.to_string()));
}

/// The request that is worked on has to do with this project.
pub(crate) fn of_project(project: &ProjectId) {
    let _ = ABOUT.try_with(|about| about.borrow_mut().project = Some(project.clone()));
}

/// The program changed the life of a database by itself.
pub(crate) fn by_itself(
    app: &App,
    operation: &'static str,
    tenant: &TenantId,
    project: Option<&ProjectId>,
) {
    let event = Event::new("done")
        .text("operation", operation)
        .text("resource", "database")
        .text("actor", "tenantry")
        .maybe("project", project)
        .text("tenant", tenant);
    app.audit.admin.note(event);
}

/// Somebody was not let in to the API: no token, or none that counts.
pub(crate) fn refused(app: &App, parts: &Parts, error: &ApiError) {
    let event = Event::new("api_refused")
        .text("method", &parts.method)
        .text("path", parts.uri.path())
        .maybe("address", address(app, parts))
        .text("code", error.code.as_str())
        .maybe("request", request_id(parts));
    app.audit.connections.note(event);
}

fn address(app: &App, parts: &Parts) -> Option<String> {
    let address = client_address(parts, &app.config.forwarded_from).ok()?;
    Some(address.ip().to_canonical().to_string())
}

fn request_id(parts: &Parts) -> Option<String> {
    let RequestId(id) = parts.extensions.get()?;
    Some(id.clone())
}

/// Its part of `/metrics`.
pub(crate) fn write_metrics(page: &mut Page, logs: &Logs) {
    let counts = logs.all().map(|log| (log.stream().as_str(), log.counts()));
    let mut family = page.counter("tenantry_audit_lines_total", "Lines of the audit log.");
    for (stream, counts) in &counts {
        family.sample(&[("stream", stream)], counts.lines);
    }
    let mut family = page.counter(
        "tenantry_audit_lost_total",
        "Lines that found no place in the queue or on the disk; the log itself says so, too.",
    );
    for (stream, counts) in &counts {
        family.sample(&[("stream", stream)], counts.lost);
    }
    let mut family = page.gauge(
        "tenantry_audit_failing",
        "1 while the audit log cannot be written, and the API changes nothing.",
    );
    for (stream, counts) in &counts {
        family.sample(&[("stream", stream)], u32::from(counts.is_failing));
    }
}
