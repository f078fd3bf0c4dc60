//! What a webhook is told, and how it knows that it is us.
//!
//! Pure. The page that users read is `docs/alerts.md`: every field stands there.

use chrono::{DateTime, SecondsFormat, Utc};
use hmac::{Hmac, KeyInit, Mac};
use model::{MessageId, Secret};
use serde::Serialize;
use sha2::Sha256;
use tokio_postgres::Row;
use utoipa::ToSchema;

use super::rule::Kind;

/// Header with the time and the signature.
pub(super) const SIGNATURE: &str = "tenantry-signature";
/// Header with the id of the message.
pub(super) const ID: &str = "tenantry-message-id";

/// What an alert is about.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AlertSubject)]
pub(super) struct Subject {
    /// `database`, `credential` or `node`.
    #[serde(rename = "type")]
    pub(super) about: String,
    /// Of a node its name.
    pub(super) id: String,
    pub(super) name: Option<String>,
    /// Null: of a node.
    pub(super) project_id: Option<String>,
}

impl Subject {
    /// Of a row of `alert`.
    pub(super) fn read(row: &Row) -> Self {
        Self {
            about: row.get("about"),
            id: row.get("subject"),
            name: row.get("subject_name"),
            project_id: row.get("subject_project_id"),
        }
    }
}

/// An alert as it is told.
#[derive(Debug, Serialize)]
pub(super) struct Told {
    pub(super) id: String,
    pub(super) kind: &'static str,
    pub(super) subject: Subject,
    pub(super) value: f64,
    pub(super) threshold: f64,
    pub(super) unit: &'static str,
    pub(super) since: DateTime<Utc>,
    pub(super) opened_at: DateTime<Utc>,
    pub(super) resolved_at: Option<DateTime<Utc>>,
    pub(super) text: String,
}

#[derive(Serialize)]
struct Message<'a> {
    id: &'a str,
    #[serde(rename = "type")]
    event: &'a str,
    created_at: String,
    alert: Option<&'a Told>,
}

/// One line for people.
pub(super) fn text(kind: Kind, subject: &Subject, value: f64, threshold: f64) -> String {
    let said = kind.said();
    let name = subject.name.as_deref().unwrap_or(&subject.id);
    let about = &subject.about;
    match kind {
        // So or not so: there is nothing to count.
        Kind::BackupFailed if value < 1.0 => {
            format!("{about} {name}: its last backup did not fail")
        }
        Kind::BackupFailed => format!("{about} {name}: its last backup could not be made"),
        Kind::DrillFailed if value < 1.0 => {
            format!("{about} {name}: its last restore drill did not fail")
        }
        Kind::DrillFailed => format!("{about} {name}: its last restore drill failed"),
        // It says itself what is counted.
        Kind::DatabasesBehind => format!(
            "{about} {name}: {} is {value} (rule: {threshold})",
            said.what
        ),
        _ => {
            let (what, unit) = (said.what, said.unit);
            format!("{about} {name}: {what} is {value} {unit} (rule: {threshold} {unit})")
        }
    }
}

/// The body of a message about an alert, or of a test.
pub(super) fn body(
    id: &MessageId,
    event: &str,
    created_at: DateTime<Utc>,
    alert: Option<&Told>,
) -> String {
    let message = Message {
        id: id.as_str(),
        event,
        created_at: created_at.to_rfc3339_opts(SecondsFormat::Millis, true),
        alert,
    };
    serde_json::to_string(&message).expect("a message is plain data")
}

/// The value of [`SIGNATURE`]: HMAC-SHA256 over the time, a dot and the body, so that neither can be another
/// one's, and an old message is known by its time.
pub(super) fn signature(secret: &Secret, at: i64, body: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.reveal().as_bytes())
        .expect("HMAC takes keys of every length");
    mac.update(at.to_string().as_bytes());
    mac.update(b".");
    mac.update(body.as_bytes());
    let mut text = format!("t={at},v1=");
    for byte in mac.finalize().into_bytes() {
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_says_it_as_a_person_would() {
        let subject = Subject {
            about: "database".to_owned(),
            id: "po7enm1erym3".to_owned(),
            name: Some("shop".to_owned()),
            project_id: None,
        };
        let ends = |kind, want: &str| {
            let said = text(kind, &subject, 2.0, 1.0);
            assert!(
                said.starts_with("database shop: ") && said.ends_with(want),
                "{said}"
            );
        };
        ends(Kind::Latency, " is 2 ms (rule: 1 ms)");
        ends(
            Kind::DatabasesBehind,
            " at the version that they should be at is 2 (rule: 1)",
        );
        ends(
            Kind::BackupFailed,
            "shop: its last backup could not be made",
        );
        ends(Kind::DrillFailed, "shop: its last restore drill failed");
        let over = text(Kind::DrillFailed, &subject, 0.0, 1.0);
        assert_eq!(over, "database shop: its last restore drill did not fail");
    }

    /// As `printf %s '1800000000.{}' | openssl dgst -sha256 -hmac whs_test` says.
    #[test]
    fn a_signature_is_that_of_any_other_program() {
        let secret = Secret::new("whs_test".to_owned());
        let want =
            "t=1800000000,v1=cfd2ff11056a4e3524c99df9c1d2ac69d9d24f7e6fc759bccd057b34490c89a7";
        assert_eq!(signature(&secret, 1_800_000_000, "{}"), want);
        assert_ne!(signature(&secret, 1_800_000_001, "{}"), want);
        assert_ne!(signature(&secret, 1_800_000_000, "{ }"), want);
    }
}
