//! One file of a chain, as it is begun.
//!
//! Owns: making it, with its first line on the disk. Does not own: the lines that follow (`writer`), or the files that
//! are there (`files`).

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
};

use chrono::Utc;

use crate::{
    Options,
    event::Event,
    files,
    keys::Keys,
    line::{self, Hash, Link},
};

/// A place in the file and in the chain.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    pub(crate) offset: u64,
    pub(crate) link: Link,
}

/// A file with its first line on the disk.
pub(crate) struct Opened {
    pub(crate) file: File,
    pub(crate) place: Place,
    pub(crate) first: Hash,
}

impl Opened {
    pub(crate) fn make(
        options: &Options,
        number: u64,
        after: Link,
        with: impl FnOnce(Event) -> Event,
    ) -> io::Result<Self> {
        let path = files::path(&options.dir, options.stream, number);
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        let event = Event::new("segment")
            .number("segment", number)
            .text("chain", &options.chain)
            .text("stream", options.stream)
            .number("process", u64::from(std::process::id()));
        let mut bytes = Vec::new();
        let keys: &Keys = &options.keys;
        let link = line::write(&with(event), &after, Utc::now(), keys, &mut bytes);
        let written = file
            .write_all_at(&bytes, 0)
            .and_then(|()| file.sync_all())
            .and_then(|()| File::open(&options.dir)?.sync_all());
        if let Err(error) = written {
            // Nothing follows it yet.
            let _ = fs::remove_file(&path);
            return Err(error);
        }
        Ok(Self {
            file,
            place: Place {
                offset: bytes.len() as u64,
                link,
            },
            first: link.hash,
        })
    }
}
