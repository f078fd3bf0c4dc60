//! What this machine has.

use std::{
    fs, io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use crate::key::{hex, random_bytes};

/// Memory of the machine or of the container, whichever is less, in bytes.
pub(crate) fn memory_bytes() -> u64 {
    let machine = fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| parse_meminfo(&text));
    let container = cgroup_dirs().into_iter().filter_map(|dir| {
        fs::read_to_string(dir.join("memory.max"))
            .ok()?
            .trim()
            .parse()
            .ok()
    });
    // A machine that does not say is planned for as a small one.
    container.chain(machine).min().unwrap_or(1 << 30)
}

/// The directory of our control group (version 2) and all above it: each may set a limit.
fn cgroup_dirs() -> Vec<PathBuf> {
    let text = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let Some(own) = text.lines().find_map(|line| line.strip_prefix("0::/")) else {
        return Vec::new();
    };
    let root = Path::new("/sys/fs/cgroup");
    root.join(own)
        .ancestors()
        .take_while(|dir| dir.starts_with(root))
        .map(Path::to_owned)
        .collect()
}

fn parse_meminfo(text: &str) -> Option<u64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim()
        .strip_suffix(" kB")?
        .trim()
        .parse::<u64>()
        .ok()?
        .checked_mul(1024)
}

pub(crate) fn cpus() -> u32 {
    std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX))
}

/// Databases in a cluster that does not run: one directory each.
pub(crate) fn databases(cluster: &Path) -> u32 {
    let count = fs::read_dir(cluster.join("base")).map_or(0, Iterator::count);
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// Whether two files in `dir` can share their blocks, found by making them do so.
pub(crate) fn probe_reflink(dir: &Path) -> io::Result<bool> {
    let name = |which| dir.join(format!(".reflink-{}-{which}", hex(&random_bytes::<6>())));
    let (from, to) = (name("from"), name("to"));
    let result = clone_file(&from, &to);
    for path in [&from, &to] {
        let _ = fs::remove_file(path);
    }
    result
}

fn clone_file(from: &Path, to: &Path) -> io::Result<bool> {
    let make = |path| {
        fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
    };
    fs::write(from, [b'x'; 8192])?;
    let (source, target) = (fs::File::open(from)?, make(to)?);
    source.sync_all()?;
    match rustix::fs::ioctl_ficlone(&target, &source) {
        Ok(()) => Ok(true),
        Err(error)
            if [
                rustix::io::Errno::OPNOTSUPP,
                rustix::io::Errno::NOTTY,
                rustix::io::Errno::INVAL,
            ]
            .contains(&error) =>
        {
            Ok(false)
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read() {
        assert_eq!(
            parse_meminfo("MemTotal:       1024 kB\nMemFree: 1 kB\n"),
            Some(1 << 20)
        );
        assert_eq!(parse_meminfo("nothing"), None);
        assert!(memory_bytes() > 64 << 20);
    }

    #[test]
    fn the_probe_leaves_nothing_behind() {
        let dir = scratch::Scratch::new();
        probe_reflink(dir.path()).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
