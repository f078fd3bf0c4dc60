//! `POST /customer/databases/{database}/dump-file`: a dump of a database, whole, as a stream.
//!
//! Owns: who may have one, how many there are at once, and that a stream that ends in order is a whole dump. Does not
//! own: what reads the database (`node::export`), or dumps that a client makes with its own `pg_dump` through the proxy,
//! which are the usual way and see what their login sees.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    extract::State,
    http::{HeaderValue, Version, header},
    response::{IntoResponse, Response},
};
use futures_util::stream;
use model::{Limits, Pid};
use node::{
    Node, NodeError,
    export::{Export, Form, Part, Wanted},
};
use serde::Deserialize;
use tokio::{
    io::AsyncReadExt as _,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::timeout,
};
use utoipa::ToSchema;

use crate::{
    api::{
        App,
        auth::Principal,
        error::{ApiError, ApiResult, ErrorBody, ErrorCode, chain},
        extract::{DatabaseKey, Json},
    },
    audited,
    backup::store::{Source, source},
    limits,
    placement::step::{Moment, Step, reached},
    tasks::Tasks,
    tenant::{self, store::Tenant},
};

/// Removing a login: more is waited for by nobody.
const REMOVE_TIME_MAX: Duration = Duration::from_secs(30);
/// Between two tries to remove one.
const REMOVE_EVERY: Duration = Duration::from_millis(500);
/// What is read at once.
const READ: usize = 64 << 10;
/// Pieces that wait for a slow client; `pg_dump` waits when there are more.
const PIECES_MAX: usize = 4;
/// Schemas in a request.
const SCHEMAS_MAX: usize = 100;
/// Bytes of the pattern of one.
const SCHEMA_BYTES_MAX: usize = 256;

/// Dumps that are being written.
pub(crate) struct Dumps {
    permits: Arc<Semaphore>,
    /// One of a database at a time: each has the login of all. Known here before a session asks the other processes.
    busy: Mutex<BTreeSet<Pid>>,
    tasks: Tasks,
}

impl Dumps {
    pub(crate) fn new(concurrent_max: usize, tasks: Tasks) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(concurrent_max)),
            busy: Mutex::default(),
            tasks,
        }
    }
}

/// A dump that has its turn.
struct Turn {
    app: Arc<App>,
    pid: Pid,
    _permit: OwnedSemaphorePermit,
}

impl Turn {
    fn take(app: &Arc<App>, pid: &Pid) -> ApiResult<Self> {
        let dumps = &app.dumps;
        let permit = dumps.permits.clone().try_acquire_owned();
        let permit = permit.map_err(|_| ApiError::from(ErrorCode::TooManyRequests))?;
        let mut busy = dumps.busy.lock().unwrap_or_else(PoisonError::into_inner);
        if !busy.insert(pid.clone()) {
            return Err(one_already());
        }
        Ok(Self {
            app: app.clone(),
            pid: pid.clone(),
            _permit: permit,
        })
    }
}

fn one_already() -> ApiError {
    ApiError::with(
        ErrorCode::TooManyRequests,
        "a dump of this database is being written",
    )
}

impl Drop for Turn {
    fn drop(&mut self) {
        let busy = &self.app.dumps.busy;
        let mut busy = busy.lock().unwrap_or_else(PoisonError::into_inner);
        busy.remove(&self.pid);
    }
}

/// What dumps left whose process ended is removed.
pub(crate) async fn clean(app: &App) {
    if let Err(error) = app.node.end_exports().await {
        tracing::warn!(error = %chain(&error), "logins of dumps that broke off were not removed");
    }
}

/// What to dump. Unknown fields are ignored.
#[derive(Default, Deserialize, ToSchema)]
pub(crate) struct DumpRequest {
    /// `plain`: the text of statements, when left out; `custom`: compressed, for `pg_restore`.
    format: Option<String>,
    /// No rows.
    ddl_only: Option<bool>,
    /// Rows alone.
    data_only: Option<bool>,
    /// Schemas, or patterns of `pg_dump`; all when left out. 100 at most.
    schemas: Option<Vec<String>>,
}

impl DumpRequest {
    fn wanted(self) -> ApiResult<Wanted> {
        let wrong = |why: &'static str| Err(ApiError::with(ErrorCode::InvalidField, why));
        let form = match self.format.as_deref() {
            None | Some("plain") => Form::Plain,
            Some("custom") => Form::Custom,
            Some(_) => return wrong("format is plain or custom"),
        };
        let part = match (self.ddl_only == Some(true), self.data_only == Some(true)) {
            (false, false) => Part::All,
            (true, false) => Part::Schema,
            (false, true) => Part::Data,
            (true, true) => return wrong("ddl_only and data_only leave nothing to dump"),
        };
        let schemas = self.schemas.unwrap_or_default();
        let is_fine = |schema: &String| {
            (1..=SCHEMA_BYTES_MAX).contains(&schema.len()) && !schema.contains('\0')
        };
        if schemas.len() > SCHEMAS_MAX || !schemas.iter().all(is_fine) {
            return wrong("schemas are 100 texts of 1 to 256 bytes at most");
        }
        Ok(Wanted {
            form,
            part,
            schemas,
        })
    }
}

/// Dumps a database: one moment of it, while it stays in use, without owners and privileges, also the rows that
/// `FORCE ROW LEVEL SECURITY` hides from the admin. The answer is the file as it is written: it is whole when the answer
/// ends in order, and worth nothing when it breaks off. Limits of statements do not apply; where results are limited,
/// it is refused.
#[utoipa::path(post, path = "/customer/databases/{database}/dump-file", tag = "databases",
    operation_id = "dump_database", security(("bearer" = [])),
    params(("database" = String, Path, description = "id or name")),
    request_body = DumpRequest,
    responses((status = 200, description = "the dump", body = String, content_type = "application/octet-stream"),
        (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody),
        (status = 429, body = ErrorBody), (status = 502, body = ErrorBody)))]
pub(crate) async fn dump(
    State(app): State<Arc<App>>,
    principal: Principal,
    key: DatabaseKey,
    version: Version,
    Json(request): Json<DumpRequest>,
) -> ApiResult<Response> {
    principal.may_write()?;
    if version < Version::HTTP_11 {
        return Err(ApiError::with(
            ErrorCode::BadRequest,
            "a dump needs HTTP/1.1: in an answer of HTTP/1.0, one that broke off looks like a whole one",
        )
        .hint("have the proxy in between use HTTP/1.1"));
    }
    let wanted = request.wanted()?;
    let tenant = tenant::http::read(&app, &principal, &key).await?;
    audited::touched(&tenant.id, &tenant.project);
    let pid = place(&app, &tenant).await?;
    let turn = Turn::take(&app, &pid)?;
    let (pieces, mut written) = mpsc::channel(PIECES_MAX);
    app.dumps.tasks.spawn("dump", async move {
        write(turn, &tenant, wanted, pieces).await;
    });
    let first = written.recv().await.ok_or(ErrorCode::Draining)??;
    let rest = stream::unfold(written, async |mut written| {
        let piece = written.recv().await?;
        Some((piece.map_err(|error: ApiError| error.message), written))
    });
    let all = futures_util::StreamExt::chain(stream::iter([Ok(first)]), rest);
    let mut response = Body::from_stream(all).into_response();
    let kind = HeaderValue::from_static("application/octet-stream");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(response)
}

/// Where it is, if it can be read, and may be as a whole.
async fn place(app: &App, tenant: &Tenant) -> ApiResult<Pid> {
    let client = app.catalog.get().await?;
    let wishes = limits::store::read(&client, &tenant.id).await?;
    let limits = Limits::of(&wishes.operator, &wishes.owner);
    if limits.result_rows_max.is_some() || limits.result_bytes_max.is_some() {
        return Err(ApiError::with(
            ErrorCode::LimitNotAllowed,
            "results of this database are limited, and a dump of all of it would be one without a limit",
        )
        .hint("whoever set result_rows_max or result_bytes_max can take it away for the time of the dump"));
    }
    match source(&client, &tenant.id).await? {
        Source::Open(pid) => Ok(pid),
        Source::NotNow | Source::Gone => Err(ApiError::with(
            ErrorCode::WrongState,
            format!("database {} is {}", tenant.name, tenant.state),
        )
        .hint("a database can be dumped while it is ACTIVE")),
    }
}

type Pieces = mpsc::Sender<Result<Bytes, ApiError>>;

async fn write(turn: Turn, tenant: &Tenant, wanted: Wanted, pieces: Pieces) {
    let (node, pid) = (&turn.app.node, &turn.pid);
    let within = turn.app.config.limits.backup_time_max;
    let among_all = match node.export_turn(pid).await {
        Ok(Some(among_all)) => among_all,
        Ok(None) => {
            let _ = pieces.send(Err(one_already())).await;
            return;
        }
        Err(error) => {
            tracing::warn!(tenant = %tenant.id, error = %chain(&error), "a database was not dumped");
            let _ = pieces.send(Err(told(error))).await;
            return;
        }
    };
    reached(Step::DumpWrite, Moment::Before).await;
    let mut export = None;
    let written = timeout(within, async {
        let export = export.insert(node.begin_export(pid, &wanted, within).await?);
        let mut bytes = 0_u64;
        if let Some(mut output) = export.output() {
            loop {
                let mut piece = bytes::BytesMut::with_capacity(READ);
                let count = tokio::select! {
                    count = output.read_buf(&mut piece) => count.map_err(|error| NodeError::Program {
                        step: "read a dump",
                        program: "pg_dump",
                        words: error.to_string(),
                    })?,
                    () = pieces.closed() => return Ok(None),
                };
                if count == 0 {
                    break;
                }
                let is_first = bytes == 0;
                bytes += count as u64;
                if pieces.send(Ok(piece.freeze())).await.is_err() {
                    return Ok(None);
                }
                if is_first {
                    reached(Step::DumpWrite, Moment::Between).await;
                }
            }
        }
        node.finish_export(export).await?;
        Ok::<_, NodeError>(Some(bytes))
    });
    let written = written.await;
    reached(Step::DumpWrite, Moment::After).await;
    reached(Step::DumpEnd, Moment::Before).await;
    let removed = timeout(REMOVE_TIME_MAX, remove(node, pid, export)).await;
    if !matches!(removed, Ok(Ok(()))) {
        tracing::warn!(tenant = %tenant.id, "the login of a dump was not removed; the next dump, or the next start, does that");
    }
    reached(Step::DumpEnd, Moment::Between).await;
    let _ = timeout(REMOVE_TIME_MAX, among_all.end()).await;
    reached(Step::DumpEnd, Moment::After).await;
    let error = match written {
        Ok(Ok(Some(bytes))) => {
            tracing::info!(tenant = %tenant.id, bytes, "a database was dumped");
            return;
        }
        Ok(Ok(None)) => {
            tracing::info!(tenant = %tenant.id, "a dump was broken off by whoever wanted it");
            return;
        }
        Ok(Err(error)) => {
            tracing::warn!(tenant = %tenant.id, error = %chain(&error), "a database was not dumped");
            told(error)
        }
        Err(_) => {
            let said = format!(
                "the dump was not complete within {}",
                humantime::format_duration(within)
            );
            ApiError::with(ErrorCode::DumpFailed, said)
        }
    };
    // Until the stream has ended with it: whoever reads must not take what there is for all.
    let _ = pieces.send(Err(error)).await;
}

/// Removes its login. A server that died, perhaps of this very dump, is back within seconds.
async fn remove(node: &Node, pid: &Pid, export: Option<Export>) -> Result<(), NodeError> {
    let mut removed = node.end_export(pid, export).await;
    while removed.as_ref().is_err_and(NodeError::is_temporary) {
        tokio::time::sleep(REMOVE_EVERY).await;
        removed = node.end_export(pid, None).await;
    }
    removed
}

fn told(error: NodeError) -> ApiError {
    match error {
        error if error.is_unreachable() => ErrorCode::DatabaseUnreachable.into(),
        NodeError::Program { words, .. } => ApiError::with(ErrorCode::DumpFailed, words),
        NodeError::Conflict { what, .. } => ApiError::with(ErrorCode::DumpFailed, what),
        NodeError::Unreachable { .. } | NodeError::Busy { .. } | NodeError::Refused { .. } => {
            ErrorCode::DatabaseUnreachable.into()
        }
    }
}
