//! The client side of the PostgreSQL protocol, as far as SQL over HTTP needs it: results as text,
//! command tags, and every field of an error, which tokio-postgres does not give.
//!
//! PostgreSQL manual, chapter "Frontend/Backend Protocol".

use std::io;

use bytes::BytesMut;
use model::Secret;
use postgres_protocol::{
    IsNull,
    authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256},
    message::{
        backend::{DataRowBody, ErrorResponseBody, Message, RowDescriptionBody},
        frontend,
    },
};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

use super::parameter;

/// A session of one user at one database.
pub(super) struct Session {
    stream: UnixStream,
    input: BytesMut,
    output: BytesMut,
}

/// How a session is begun.
pub(super) struct Login<'a> {
    pub(super) user: &'a str,
    pub(super) database: &'a str,
    pub(super) password: &'a Secret,
    /// Sent in the startup packet.
    pub(super) settings: &'a [(&'a str, &'a str)],
}

/// What all results of one request may still hold together.
#[derive(Clone, Copy)]
pub(super) struct Room {
    rows_max: usize,
    bytes_max: usize,
    rows: usize,
    bytes: usize,
    /// Whether each row is written with the names of its columns.
    has_names: bool,
}

impl Room {
    pub(super) fn new(rows_max: usize, bytes_max: usize) -> Self {
        Self {
            rows_max,
            bytes_max,
            rows: 0,
            bytes: 0,
            has_names: false,
        }
    }

    /// The same for rows that are written as objects.
    pub(super) fn with_names(self, has_names: bool) -> Self {
        Self { has_names, ..self }
    }

    fn take_bytes(&mut self, bytes: usize) -> Result<(), SqlError> {
        self.bytes += bytes;
        if self.bytes > self.bytes_max {
            return Err(SqlError::TooLarge(format!("{} bytes", self.bytes_max)));
        }
        Ok(())
    }

    /// Counts a row as it will be written, while what was done can still be undone.
    fn take_row(&mut self, row: &DataRowBody, columns: &[Column]) -> Result<(), SqlError> {
        use fallible_iterator::FallibleIterator;
        self.rows += 1;
        if self.rows > self.rows_max {
            return Err(SqlError::TooLarge(format!("{} rows", self.rows_max)));
        }
        let mut bytes = 0;
        let mut ranges = row.ranges();
        for column in columns {
            let range = ranges
                .next()?
                .ok_or_else(|| io::Error::other("a row has too few values"))?;
            let value = range.and_then(|range| row.buffer().get(range));
            if value.is_some_and(|value| std::str::from_utf8(value).is_err()) {
                return Err(not_utf8());
            }
            bytes += json_len(value.unwrap_or(b"null"));
            if self.has_names {
                bytes += json_len(column.name.as_bytes());
            }
        }
        self.take_bytes(bytes)
    }
}

/// Bytes of a text in JSON at most, with its quotes and a comma.
fn json_len(text: &[u8]) -> usize {
    let escapes = text.iter().map(|byte| match byte {
        0..0x20 => 5,
        b'"' | b'\\' => 1,
        _ => 0,
    });
    text.len() + escapes.sum::<usize>() + 3
}

/// What is not UTF-8 cannot be told in JSON, and telling something else would be wrong.
fn not_utf8() -> SqlError {
    SqlError::Server(Box::new(ServerError::own(
        // untranslatable_character
        "22P05",
        "the result is not in UTF-8",
        "leave client_encoding as it is; read the bytes of a database without an encoding with convert_to",
    )))
}

/// What a column is. PostgreSQL manual, section "Message Formats", RowDescription.
#[derive(Clone, Debug)]
pub(super) struct Column {
    pub(super) name: String,
    pub(super) oid: u32,
    pub(super) table_oid: u32,
    pub(super) column_id: i16,
    pub(super) type_size: i16,
    pub(super) type_modifier: i32,
}

/// Result of a statement; of several that were sent as one text, of the last.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) columns: Vec<Column>,
    /// As they came, each value as text.
    pub(super) rows: Vec<DataRowBody>,
    /// `INSERT 0 3`
    pub(super) tag: String,
    /// Whether a transaction is open behind it.
    pub(super) is_in_transaction: bool,
}

/// The server's own words. PostgreSQL manual, section "Error and Notice Message Fields".
#[derive(Clone, Debug, Default)]
pub(super) struct ServerError {
    pub(super) severity: String,
    pub(super) code: String,
    pub(super) message: String,
    pub(super) detail: Option<String>,
    pub(super) hint: Option<String>,
    pub(super) position: Option<u32>,
    pub(super) internal_position: Option<u32>,
    pub(super) internal_query: Option<String>,
    pub(super) context: Option<String>,
    pub(super) schema: Option<String>,
    pub(super) table: Option<String>,
    pub(super) column: Option<String>,
    pub(super) data_type: Option<String>,
    pub(super) constraint: Option<String>,
    pub(super) file: Option<String>,
    pub(super) line: Option<String>,
    pub(super) routine: Option<String>,
}

impl ServerError {
    /// One of ours, in the form of PostgreSQL's.
    pub(super) fn own(code: &str, message: &str, hint: &str) -> Self {
        Self {
            severity: "ERROR".to_owned(),
            code: code.to_owned(),
            message: message.to_owned(),
            hint: Some(hint.to_owned()),
            ..Self::default()
        }
    }
}

/// Why there is no result, split by what is answered.
#[derive(Debug, thiserror::Error)]
pub(super) enum SqlError {
    /// The statement failed; its user is told.
    #[error("the server refused ({})", .0.code)]
    Server(Box<ServerError>),
    /// More rows or bytes than the bounds. The session must be thrown away.
    #[error("the result has more than {0}")]
    TooLarge(String),
    /// The session is over.
    #[error("the session ended")]
    Lost(#[source] io::Error),
}

impl From<io::Error> for SqlError {
    fn from(error: io::Error) -> Self {
        Self::Lost(error)
    }
}

impl Session {
    /// Logs in.
    ///
    /// # Errors
    ///
    /// [`SqlError::Server`] when it is refused.
    pub(super) async fn begin(stream: UnixStream, login: Login<'_>) -> Result<Self, SqlError> {
        let mut session = Self {
            stream,
            input: BytesMut::with_capacity(8 << 10),
            output: BytesMut::new(),
        };
        let fixed = [
            ("user", login.user),
            ("database", login.database),
            ("client_encoding", "UTF8"),
        ];
        let parameters = fixed.iter().chain(login.settings).copied();
        frontend::startup_message(parameters, &mut session.output)?;
        session.send().await?;
        session.authenticate(login.password).await?;
        loop {
            match session.receive().await? {
                Message::ReadyForQuery(_) => return Ok(session),
                Message::ErrorResponse(body) => return Err(server_error(&body)),
                _ => {}
            }
        }
    }

    async fn authenticate(&mut self, password: &Secret) -> Result<(), SqlError> {
        let mut scram =
            ScramSha256::new(password.reveal().as_bytes(), ChannelBinding::unsupported());
        loop {
            match self.receive().await? {
                Message::AuthenticationOk => return Ok(()),
                Message::AuthenticationSasl(_) => {
                    frontend::sasl_initial_response(
                        SCRAM_SHA_256,
                        scram.message(),
                        &mut self.output,
                    )?;
                    self.send().await?;
                }
                Message::AuthenticationSaslContinue(body) => {
                    scram.update(body.data())?;
                    frontend::sasl_response(scram.message(), &mut self.output)?;
                    self.send().await?;
                }
                Message::AuthenticationSaslFinal(body) => scram.finish(body.data())?,
                Message::ErrorResponse(body) => return Err(server_error(&body)),
                Message::NoticeResponse(_) => {}
                _ => return Err(io::Error::other("unexpected message at login").into()),
            }
        }
    }

    /// Runs one or more statements, as psql's `-c` does: together they are one transaction. The
    /// result is the last one's.
    pub(super) async fn script(&mut self, sql: &str, room: &mut Room) -> Result<Outcome, SqlError> {
        frontend::query(sql, &mut self.output)?;
        self.send().await?;
        self.collect(room, false).await
    }

    /// Runs one statement with parameters. When the result is too large, nothing was changed: it is
    /// committed only after all of it was read.
    pub(super) async fn statement(
        &mut self,
        sql: &str,
        parameters: &[Value],
        room: &mut Room,
    ) -> Result<Outcome, SqlError> {
        frontend::parse("", sql, [], &mut self.output)?;
        let types = if parameters.iter().any(Value::is_array) {
            self.parameter_types().await?
        } else {
            Vec::new()
        };
        let texts = parameters.iter().enumerate().map(|(index, value)| {
            parameter::to_text(value, types.get(index).copied().unwrap_or_default())
        });
        let bound = frontend::bind(
            "",
            "",
            [0],
            texts,
            |value, out| match value {
                Some(text) => {
                    out.extend_from_slice(text.as_bytes());
                    Ok(IsNull::No)
                }
                None => Ok(IsNull::Yes),
            },
            [0],
            &mut self.output,
        );
        bound.map_err(|_| io::Error::other("parameters do not fit into one message"))?;
        frontend::describe(b'P', "", &mut self.output)?;
        frontend::execute("", 0, &mut self.output)?;
        frontend::flush(&mut self.output);
        self.send().await?;
        self.collect(room, true).await
    }

    /// Which types the parameters of the statement just parsed have. Only asked for where a value's
    /// text depends on it.
    async fn parameter_types(&mut self) -> Result<Vec<u32>, SqlError> {
        use fallible_iterator::FallibleIterator;
        frontend::describe(b'S', "", &mut self.output)?;
        frontend::flush(&mut self.output);
        self.send().await?;
        let mut types = Vec::new();
        loop {
            match self.receive().await? {
                Message::ParameterDescription(body) => types = body.parameters().collect()?,
                Message::RowDescription(_) | Message::NoData => return Ok(types),
                // The session ends: nothing more is wanted of it.
                Message::ErrorResponse(body) => return Err(server_error(&body)),
                _ => {}
            }
        }
    }

    /// Reads up to ReadyForQuery. With `sync`, the statement's end is answered with Sync first.
    async fn collect(&mut self, room: &mut Room, sync: bool) -> Result<Outcome, SqlError> {
        let mut last = Outcome::default();
        // Whether the statement that runs now has said which columns it returns.
        let mut described = false;
        let mut failed = None;
        loop {
            match self.receive().await? {
                Message::RowDescription(body) => {
                    last = Outcome {
                        columns: columns(&body)?,
                        ..Outcome::default()
                    };
                    described = true;
                }
                Message::DataRow(body) => {
                    room.take_row(&body, &last.columns)?;
                    last.rows.push(body);
                }
                Message::CommandComplete(body) => {
                    if !std::mem::take(&mut described) {
                        last = Outcome::default();
                    }
                    last.tag = body.tag()?.to_owned();
                    self.end_statement(sync).await?;
                }
                Message::EmptyQueryResponse => self.end_statement(sync).await?,
                Message::ErrorResponse(body) => {
                    let error = server_error(&body);
                    if matches!(&error, SqlError::Server(error) if error.severity != "ERROR") {
                        return Err(error);
                    }
                    failed = Some(error);
                    self.end_statement(sync).await?;
                }
                Message::ParameterStatus(body)
                    if body.name()? == "client_encoding" && body.value()? != "UTF8" =>
                {
                    return Err(not_utf8());
                }
                Message::CopyInResponse(_) => {
                    let reason = "COPY FROM STDIN needs a PostgreSQL connection";
                    frontend::copy_fail(reason, &mut self.output)?;
                    self.send().await?;
                }
                // Answered at once, and the session ends: rows that nobody gets are no result.
                Message::CopyOutResponse(_) => return Err(copy_out()),
                Message::CopyData(body) => room.take_bytes(body.data().len())?,
                Message::ReadyForQuery(body) => {
                    last.is_in_transaction = body.status() == b'T';
                    return match failed {
                        Some(error) => Err(error),
                        None => Ok(last),
                    };
                }
                _ => {}
            }
        }
    }

    async fn end_statement(&mut self, sync: bool) -> Result<(), SqlError> {
        if sync {
            frontend::sync(&mut self.output);
            self.send().await?;
        }
        Ok(())
    }

    /// Says good-bye. A session that is just dropped is as good, only less polite.
    pub(super) async fn end(mut self) {
        frontend::terminate(&mut self.output);
        let _ = self.send().await;
    }

    async fn send(&mut self) -> io::Result<()> {
        self.stream.write_all(&self.output).await?;
        self.output.clear();
        Ok(())
    }

    async fn receive(&mut self) -> Result<Message, SqlError> {
        loop {
            if let Some(message) = Message::parse(&mut self.input)? {
                return Ok(message);
            }
            if self.stream.read_buf(&mut self.input).await? == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
        }
    }
}

/// What a script did before it is undone only if the server had not come to its end yet.
fn copy_out() -> SqlError {
    SqlError::Server(Box::new(ServerError::own(
        "0A000",
        "COPY TO STDOUT needs a PostgreSQL connection",
        "SELECT returns the same rows here",
    )))
}

fn columns(body: &RowDescriptionBody) -> io::Result<Vec<Column>> {
    use fallible_iterator::FallibleIterator;
    body.fields()
        .map(|field| {
            Ok(Column {
                name: field.name().to_owned(),
                oid: field.type_oid(),
                table_oid: field.table_oid(),
                column_id: field.column_id(),
                type_size: field.type_size(),
                type_modifier: field.type_modifier(),
            })
        })
        .collect()
}

fn server_error(body: &ErrorResponseBody) -> SqlError {
    use fallible_iterator::FallibleIterator;
    let mut error = ServerError::default();
    let mut fields = body.fields();
    while let Ok(Some(field)) = fields.next() {
        let text = String::from_utf8_lossy(field.value_bytes()).into_owned();
        match field.type_() {
            b'V' => error.severity = text,
            b'S' if error.severity.is_empty() => error.severity = text,
            b'C' => error.code = text,
            b'M' => error.message = text,
            b'D' => error.detail = Some(text),
            b'H' => error.hint = Some(text),
            b'P' => error.position = text.parse().ok(),
            b'p' => error.internal_position = text.parse().ok(),
            b'q' => error.internal_query = Some(text),
            b'W' => error.context = Some(text),
            b's' => error.schema = Some(text),
            b't' => error.table = Some(text),
            b'c' => error.column = Some(text),
            b'd' => error.data_type = Some(text),
            b'n' => error.constraint = Some(text),
            b'F' => error.file = Some(text),
            b'L' => error.line = Some(text),
            b'R' => error.routine = Some(text),
            _ => {}
        }
    }
    SqlError::Server(Box::new(error))
}
