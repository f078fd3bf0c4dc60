//! What files and a database together say: which migrations are to be applied, and which of them
//! nobody may go past. No I/O.

use super::files::Migration;

/// What a database says about a migration.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Record {
    pub(super) name: String,
    pub(super) checksum: String,
    /// `None` while one without a transaction is being applied, or after it broke off.
    pub(super) applied_at: Option<String>,
}

/// How a migration stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Status {
    Applied,
    Pending,
    /// Applied, and its file is another one since.
    Changed,
    /// Applied, and there is no file.
    Missing,
    /// Not applied, and a later one is.
    Late,
    /// Began outside of a transaction, and did not end.
    Unfinished,
}

impl Status {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Pending => "pending",
            Self::Changed => "changed",
            Self::Missing => "missing",
            Self::Late => "late",
            Self::Unfinished => "unfinished",
        }
    }
}

/// All that there are, files and records, in order of their names.
pub(super) fn statuses(files: &[Migration], records: &[Record]) -> Vec<(String, Status)> {
    let last = records.iter().map(|record| &record.name).max();
    let mut all: Vec<(String, Status)> = files
        .iter()
        .map(|file| {
            let record = records.iter().find(|record| record.name == file.name);
            let status = match record {
                // Its file may well be mended by now.
                Some(record) if record.applied_at.is_none() => Status::Unfinished,
                Some(record) if record.checksum != file.checksum => Status::Changed,
                Some(_) => Status::Applied,
                None if last.is_some_and(|last| *last > file.name) => Status::Late,
                None => Status::Pending,
            };
            (file.name.clone(), status)
        })
        .collect();
    let gone = records
        .iter()
        .filter(|record| files.iter().all(|file| file.name != record.name));
    all.extend(gone.map(|record| {
        let status = match record.applied_at {
            Some(_) => Status::Missing,
            None => Status::Unfinished,
        };
        (record.name.clone(), status)
    }));
    all.sort_by(|(one, _), (other, _)| one.cmp(other));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pair_of_file_and_record_has_its_status() {
        let file = |name: &str, checksum: &str| Migration {
            name: name.into(),
            text: Vec::new(),
            checksum: checksum.into(),
        };
        let record = |name: &str, checksum: &str, is_done: bool| Record {
            name: name.into(),
            checksum: checksum.into(),
            applied_at: is_done.then(|| "now".into()),
        };
        let files = [
            file("1", "a"),
            file("2", "b"),
            file("3", "c"),
            file("4", "d"),
            file("6", "e"),
        ];
        let records = [
            record("1", "a", true),
            record("2", "x", true),
            record("4", "d", false),
            record("5", "z", true),
        ];
        let is = [
            ("1", Status::Applied),
            ("2", Status::Changed),
            ("3", Status::Late),
            ("4", Status::Unfinished),
            ("5", Status::Missing),
            ("6", Status::Pending),
        ]
        .map(|(name, status)| (name.to_owned(), status));
        assert_eq!(statuses(&files, &records), is);
        assert!(statuses(&[], &[]).is_empty());
    }
}
