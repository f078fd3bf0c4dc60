//! `tenantry backup schedule`: when a database is backed up by itself.

use clap::Args;
use serde_json::{Value, json};

use crate::{
    exit::Failure,
    output::{self, Format, Rows},
    user::{Context, database::path},
};

#[derive(Debug, Args)]
pub(crate) struct ScheduleArgs {
    /// Name or id.
    pub(crate) db: Option<String>,
    /// Between two backups, such as 6h; an hour at least.
    #[arg(long, value_name = "TIME")]
    pub(crate) every: Option<String>,
    /// Good backups that are kept, 1 to 100; 0 is any number.
    #[arg(long, value_name = "COUNT")]
    pub(crate) keep: Option<u32>,
    /// How long they are kept, such as 30d, or forever.
    #[arg(long, value_name = "TIME")]
    pub(crate) keep_for: Option<String>,
    /// Make none.
    #[arg(long, conflicts_with = "every")]
    pub(crate) off: bool,
    /// As the installation has it: forget what was said of this database.
    #[arg(long, conflicts_with_all = ["every", "keep", "keep_for", "off"])]
    pub(crate) default: bool,
}

pub(super) async fn schedule(context: &Context, args: ScheduleArgs) -> Result<(), Failure> {
    let asked = path(&context.database(args.db.as_deref())?, "/backup-schedule")?;
    let every = match args.off {
        true => Some("never".to_owned()),
        false => args.every,
    };
    let changes = [
        ("every", every.map(Value::from)),
        ("keep", args.keep.map(Value::from)),
        ("keep_for", args.keep_for.map(Value::from)),
    ];
    let is_change = args.default || changes.iter().any(|(_, value)| value.is_some());
    let mut seen = match args.default {
        true => json!({ "own": {} }),
        false => context.api.get(&asked).await?,
    };
    if is_change {
        let mut own = seen["own"].take();
        for (name, value) in changes {
            if let Some(value) = value {
                own[name] = value;
            }
        }
        seen = context.api.put(&asked, &own).await?;
    }
    if context.format == Format::Json {
        return output::json(&seen);
    }
    const SHOWN: [&str; 6] = ["every", "window", "keep", "keep_for", "last_at", "next_at"];
    let rows = SHOWN.map(|name| {
        let value = match &seen[name] {
            Value::Null => None,
            Value::String(text) => Some(text.clone()),
            other => Some(other.to_string()),
        };
        vec![Some(name.to_owned()), value]
    });
    Rows {
        columns: vec!["setting".to_owned(), "value".to_owned()],
        rows: rows.to_vec(),
    }
    .print(context.format)
}
