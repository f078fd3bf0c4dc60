//! The one place where requests to the API are written down.
//!
//! A change is announced before it is begun: what ends the process in the middle leaves that line. It is
//! answered when the second one, with its outcome, is as safe as `audit-sync` says. No body and no header is
//! looked at, so no secret can get into a line.

use std::{cell::RefCell, sync::Arc};

use audit::{Event, Log};
use axum::{
    extract::{FromRequestParts, MatchedPath, RawPathParams, Request, State},
    http::request::Parts,
    middleware::Next,
    response::{IntoResponse, Response},
};
use tracing::Instrument as _;

use super::{
    ABOUT, About,
    action::{Action, How},
    address, request_id,
};
use crate::api::{
    App,
    auth::{Kind, Principal},
    error::{ApiError, ErrorCode, chain},
};

/// Behind whoever says who asks, before all that has an effect.
pub(crate) async fn layer(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>();
    let action = route.and_then(|route| Action::of(request.method(), route.as_str()));
    let Some(action) = action else {
        return next.run(request).await;
    };
    let (mut parts, body) = request.into_parts();
    let asked = Asked::of(&app, action, &mut parts).await;
    let request = Request::from_parts(parts, body);
    let log = &app.audit.admin;
    if action.how == How::Change
        && let Err(error) = log.announce(asked.line("request")).await
    {
        tracing::warn!(error = %chain(&error), "a request was refused because it cannot be written down");
        return ApiError::from(ErrorCode::AuditUnavailable).into_response();
    }
    let mut open = Open {
        log: log.clone(),
        asked: Some(asked),
    };
    let span = tracing::Span::current();
    let work = async move {
        let response = next.run(request).await;
        (response, ABOUT.with(RefCell::take))
    };
    let (response, about) = ABOUT.scope(RefCell::default(), work).instrument(span).await;
    let Some(asked) = open.asked.take() else {
        return response;
    };
    asked.others(&about, log);
    let answer = asked.answer(&response, &about);
    match action.how {
        How::Look => {
            log.note(answer);
            response
        }
        How::Change => match log.record(answer).await {
            Ok(()) => response,
            Err(error) => {
                tracing::error!(error = %chain(&error), "an outcome could not be written down");
                ApiError::with(
                    ErrorCode::AuditUnavailable,
                    "the audit log could not be written when the request was worked on; it may have had an effect",
                )
                .into_response()
            }
        },
    }
}

/// What is known of a request before it is worked on.
struct Asked {
    action: Action,
    route: String,
    /// Kind and id of whose it is.
    actor: &'static str,
    actor_id: Option<String>,
    project: Option<String>,
    /// As the path names it: an id or a name.
    database: Option<String>,
    /// The last part of the path that is a value.
    resource_id: Option<String>,
    address: Option<String>,
    request: Option<String>,
}

impl Asked {
    async fn of(app: &App, action: Action, parts: &mut Parts) -> Self {
        let route = parts.extensions.get::<MatchedPath>();
        let route = route.map_or_else(String::new, |route| {
            format!("{} {}", parts.method, route.as_str())
        });
        let (actor, actor_id, project) = match parts.extensions.get::<Principal>() {
            Some(principal) => match &principal.kind {
                Kind::Operator => ("operator", None, None),
                Kind::Project { token, .. } => (
                    "token",
                    Some(token.to_string()),
                    Some(principal.project.to_string()),
                ),
            },
            None => ("nobody", None, None),
        };
        let values = RawPathParams::from_request_parts(parts, &()).await;
        let values: Vec<(String, String)> = values.map_or_else(
            |_| Vec::new(),
            |values| {
                let values = values.iter();
                values
                    .map(|(name, value)| (name.to_owned(), value.to_owned()))
                    .collect()
            },
        );
        let database = values.iter().find(|(name, _)| name == "database");
        Self {
            action,
            route,
            actor,
            actor_id,
            project,
            database: database.map(|(_, value)| value.clone()),
            resource_id: values.last().map(|(_, value)| value.clone()),
            address: address(app, parts),
            request: request_id(parts),
        }
    }

    fn line(&self, kind: &'static str) -> Event {
        self.begin(kind)
            .maybe("project", self.project.as_ref())
            .maybe("database", self.database.as_ref())
            .maybe("resource_id", self.resource_id.as_ref())
    }

    fn begin(&self, kind: &'static str) -> Event {
        Event::new(kind)
            .maybe("request", self.request.as_ref())
            .text("operation", self.action.operation)
            .text("resource", self.action.resource)
            .text("route", &self.route)
            .text("actor", self.actor)
            .maybe("actor_id", self.actor_id.as_ref())
            .maybe("address", self.address.as_ref())
    }

    /// With what it turned out to be about.
    fn about(&self, kind: &'static str, about: &About) -> Event {
        let (tenant, owner) = about.tenants.first().cloned().unzip();
        let project = owner.or_else(|| about.project.clone());
        let project = project.map(|id| id.to_string()).or(self.project.clone());
        let resource_id = about.made.clone().or(self.resource_id.clone());
        self.begin(kind)
            .maybe("project", project)
            .maybe("database", self.database.as_ref())
            .maybe("tenant", tenant)
            .maybe("resource_id", resource_id)
    }

    fn answer(&self, response: &Response, about: &About) -> Event {
        let status = response.status();
        let code = response.extensions().get::<ApiError>();
        self.about("answer", about)
            .number("status", u64::from(status.as_u16()))
            .maybe("code", code.map(|error| error.code.as_str()))
    }

    /// A line for every other database that the request had to do with: its owner asks for them by their ids.
    fn others(&self, about: &About, log: &Log) {
        for (tenant, project) in about.tenants.iter().skip(1) {
            let event = self
                .begin("also")
                .text("project", project)
                .text("tenant", tenant);
            log.note(event);
        }
    }
}

/// A request that is worked on. Dropped before it has an answer when the client left, its time was over, or
/// its handler panicked.
struct Open {
    log: Log,
    asked: Option<Asked>,
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some(asked) = self.asked.take() {
            self.log.note(asked.line("left"));
        }
    }
}
