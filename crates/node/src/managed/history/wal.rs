//! The archived log: which segments there are, and that they take little room.
//!
//! PostgreSQL's archiver puts a segment into `wal/`, which belongs to its user; from there it goes, compressed,
//! into `packed/`, which is ours. Does not own: how long they are kept (`trim`).

use std::{
    fs,
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use super::copy;
use crate::managed::user::RunAs;

/// Of `initdb`'s default, which is ours.
pub(crate) const SEGMENT_BYTES: u64 = 16 << 20;
/// Of zstd: the fastest. An empty end of a segment, which is most of what a quiet server archives, packs into
/// next to nothing at any level.
const LEVEL: i32 = 1;
const PACKED: &str = ".zst";

/// Name of a segment: timeline, and place in the log.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) struct Segment(String);

impl Segment {
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let is_hex = |byte: u8| byte.is_ascii_digit() || (b'A'..=b'F').contains(&byte);
        (name.len() == 24 && name.bytes().all(is_hex)).then(|| Self(name.to_owned()))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// The one that follows in the same timeline.
    pub(crate) fn next(&self) -> Self {
        const SEGMENTS_PER_LOG: u64 = (1 << 32) / SEGMENT_BYTES;
        let number =
            |text: &str| u64::from_str_radix(text, 16).expect("looked at when it was parsed");
        let (timeline, place) = self.0.split_at(8);
        let (log, segment) = place.split_at(8);
        let next = number(log) * SEGMENTS_PER_LOG + number(segment) + 1;
        Self(format!(
            "{timeline}{:08X}{:08X}",
            next / SEGMENTS_PER_LOG,
            next % SEGMENTS_PER_LOG
        ))
    }

    fn file(&self, packed: &Path) -> PathBuf {
        packed.join(format!("{}{PACKED}", self.0))
    }
}

/// What PostgreSQL runs for each segment: constant, because every tenant can read it. Where the archive is
/// stands in the environment of the server. While `discard` is there, nothing is kept, and the log does not
/// wait for it either. The name appears when all of the file is on the disk.
pub(crate) const ARCHIVE_COMMAND: &str = r#"h="$TENANTRY_HISTORY"; test -e "$h/discard" || if test -e "$h/wal/%f"; then cmp -s "%p" "$h/wal/%f"; else dd if="%p" of="$h/wal/.new" bs=1M conv=fsync status=none && mv "$h/wal/.new" "$h/wal/%f" && sync "$h/wal"; fi"#;
pub(crate) const ENVIRONMENT: &str = "TENANTRY_HISTORY";
/// See [`ARCHIVE_COMMAND`].
pub(super) const DISCARD: &str = "discard";

/// Why a segment was not packed.
#[derive(Debug)]
pub(super) enum PackError {
    Io(io::Error),
    /// Another one of this name is there already: this is not the server whose history it is.
    Other,
}

impl From<io::Error> for PackError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Packs what arrived. Blocks. Twice is as good as once.
pub(super) fn pack(wal: &Path, packed: &Path) -> Result<usize, PackError> {
    let mut arrived: Vec<String> = fs::read_dir(wal)?
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        // One that is being written, or was when the server died: written anew by its next attempt.
        .filter(|name| !name.starts_with('.'))
        .collect();
    arrived.sort_unstable();
    for name in &arrived {
        let from = wal.join(name);
        if let Some(segment) = Segment::parse(name) {
            pack_one(&from, &segment, packed)?;
        }
        // Notes of base backups and of timelines: nothing of ours reads them.
        fs::remove_file(&from)?;
    }
    Ok(arrived.len())
}

fn pack_one(from: &Path, segment: &Segment, packed: &Path) -> Result<(), PackError> {
    let mut text = Vec::new();
    copy::open(from)?
        .take(SEGMENT_BYTES + 1)
        .read_to_end(&mut text)?;
    if segment.file(packed).exists() {
        // The server died before it noted that it had archived this one.
        return match unpacked(segment, packed)? == text {
            true => Ok(()),
            false => Err(PackError::Other),
        };
    }
    let new = packed.join(".new");
    let _ = fs::remove_file(&new);
    let mut to = copy::make(&new, None)?;
    to.write_all(&zstd::bulk::compress(&text, LEVEL)?)?;
    to.sync_all()?;
    fs::rename(&new, segment.file(packed))?;
    fs::File::open(packed)?.sync_all()?;
    Ok(())
}

fn unpacked(segment: &Segment, packed: &Path) -> io::Result<Vec<u8>> {
    let text = fs::read(segment.file(packed))?;
    zstd::bulk::decompress(&text, usize::try_from(SEGMENT_BYTES).unwrap_or(usize::MAX))
}

/// Puts a segment where a server finds it. Blocks.
pub(super) fn unpack(
    segment: &Segment,
    packed: &Path,
    to: &Path,
    owner: Option<&RunAs>,
) -> io::Result<()> {
    let text = unpacked(segment, packed)?;
    let mut file = copy::make(&to.join(segment.as_str()), owner)?;
    // The end of a segment that was handed over early is empty, and takes no room.
    let end = text
        .iter()
        .rposition(|byte| *byte != 0)
        .map_or(0, |last| last + 1);
    file.write_all(&text[..end])?;
    file.set_len(text.len() as u64)
}

/// What there is, in order, with its size on the disk.
pub(super) fn list(packed: &Path) -> io::Result<Vec<(Segment, u64)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(packed)?.flatten() {
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        if let Some(segment) = name.strip_suffix(PACKED).and_then(Segment::parse) {
            found.push((segment, entry.metadata()?.len()));
        }
    }
    found.sort_unstable();
    Ok(found)
}

pub(super) fn remove(segment: &Segment, packed: &Path) -> io::Result<()> {
    fs::remove_file(segment.file(packed))
}

/// Segments that wait for the archiver, in a cluster.
pub(super) fn waiting(cluster: &Path) -> usize {
    let notes = fs::read_dir(cluster.join("pg_wal/archive_status"));
    let is_ready = |entry: &fs::DirEntry| {
        let name = entry.file_name();
        name.as_encoded_bytes().ends_with(b".ready")
    };
    notes
        .into_iter()
        .flatten()
        .flatten()
        .filter(is_ready)
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(name: &str) -> Segment {
        Segment::parse(name).unwrap()
    }

    #[test]
    fn segments_follow_each_other() {
        for (one, next) in [
            ("000000010000000000000001", "000000010000000000000002"),
            ("0000000100000000000000FF", "000000010000000100000000"),
            ("0000000A0000000F000000FF", "0000000A0000001000000000"),
        ] {
            assert_eq!(segment(one).next(), segment(next));
        }
        for name in [
            "00000002.history",
            "000000010000000000000001.partial",
            ".new",
            "00000001000000000000000x",
        ] {
            assert_eq!(Segment::parse(name), None, "{name}");
        }
    }

    #[test]
    fn a_segment_is_packed_once_and_another_one_of_its_name_is_refused() {
        let root = scratch::Scratch::new();
        let (wal, packed, out) = (root.join("wal"), root.join("packed"), root.join("out"));
        for dir in [&wal, &packed, &out] {
            fs::create_dir(dir).unwrap();
        }
        let name = "000000010000000000000003";
        let text = |byte: u8| vec![byte; 16 << 20];
        for file in [
            name,
            "00000002.history",
            "000000010000000000000002.00000028.backup",
        ] {
            fs::write(wal.join(file), text(7)).unwrap();
        }
        fs::write(wal.join(".new"), "half").unwrap();
        assert_eq!(pack(&wal, &packed).unwrap(), 3);
        fs::write(wal.join(name), text(7)).unwrap();
        assert_eq!(pack(&wal, &packed).unwrap(), 1);
        let found = list(&packed).unwrap();
        assert_eq!(found.len(), 1);
        assert!(found[0].1 < 10_000, "{}", found[0].1);
        unpack(&found[0].0, &packed, &out, None).unwrap();
        assert!(fs::read(out.join(name)).unwrap() == text(7));
        let mut short = text(0);
        short[7] = 7;
        let early = "000000010000000000000004";
        fs::write(wal.join(early), &short).unwrap();
        assert_eq!(pack(&wal, &packed).unwrap(), 1);
        unpack(&segment(early), &packed, &out, None).unwrap();
        assert!(fs::read(out.join(early)).unwrap() == short);
        fs::write(wal.join(name), text(8)).unwrap();
        assert!(matches!(pack(&wal, &packed), Err(PackError::Other)));
        assert!(wal.join(".new").exists());
    }
}
