//! Copies on a file system whose files can share blocks: XFS in a file, mounted for the test.
//!
//! A runner of its own, because the standard one cannot skip a test by what the machine offers: it
//! lists the test as ignored, and says why, where nobody may mount; `tests/skipped.txt` allows that.

#![allow(clippy::unwrap_used, reason = "a test")]

mod kit;

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use kit::{STOP, Scratch, create, login, start, superuser};
use model::Role;
use node::{ClonePath, Node, Template};

const NAME: &str = "copies_share_their_blocks";
const MB: u64 = 1 << 20;

/// As much of the standard runner's command line as cargo and nextest use.
fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    let filters = || {
        arguments
            .iter()
            .filter(|argument| !argument.starts_with('-'))
    };
    let selected = filters().count() == 0 || filters().any(|filter| NAME.contains(&**filter));
    let unable = why_not();
    if has("--list") {
        if unable.is_some() || !has("--ignored") {
            println!("{NAME}: test");
        }
        return;
    }
    match unable {
        _ if !selected => {}
        Some(reason) => println!("test {NAME} ... ignored, {reason}"),
        None => {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            runtime.block_on(copies_share_their_blocks());
            println!("test {NAME} ... ok");
        }
    }
}

/// Found by doing it: rights, programs and the kernel all have a say.
fn why_not() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("only root can mount".to_owned());
    }
    Mounted::new().err()
}

/// An XFS of its own, gone with the value.
struct Mounted {
    dir: PathBuf,
    _parent: Scratch,
}

impl Mounted {
    fn new() -> Result<Self, String> {
        let parent = Scratch::new();
        let (image, dir) = (parent.path().join("image"), parent.path().join("mounted"));
        let file = std::fs::File::create(&image).unwrap();
        file.set_len(1536 * MB).unwrap();
        std::fs::create_dir(&dir).unwrap();
        run("mkfs.xfs", &["-q", "-m", "reflink=1"], &[&image])?;
        run("mount", &["-o", "loop"], &[&image, &dir])?;
        Ok(Self {
            dir,
            _parent: parent,
        })
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Those of a test that failed.
        scratch::end_processes(&self.dir);
        run("umount", &[], &[&self.dir]).expect("nothing uses it any more");
    }
}

fn run(program: &str, options: &[&str], paths: &[&Path]) -> Result<(), String> {
    let output = Command::new(program).args(options).args(paths).output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("{program}: {}", words.replace('\n', " "))),
    }
}

/// Of the file system, after everything is written.
fn used(dir: &Path) -> u64 {
    run("sync", &["-f"], &[dir]).unwrap();
    let found = rustix::fs::statvfs(dir).unwrap();
    (found.f_blocks - found.f_bfree) * found.f_frsize
}

/// A tenant with 150 MB in it.
async fn filled(node: &Node) -> model::Pid {
    let pid = create(node).await;
    let admin = login(node, &pid, Role::Admin).await.unwrap();
    admin
        .batch_execute(
            "CREATE TABLE t (v text); ALTER TABLE t ALTER v SET STORAGE EXTERNAL; \
             INSERT INTO t SELECT repeat('x', 1000000) FROM generate_series(1, 150)",
        )
        .await
        .unwrap();
    node.close(&pid).await.unwrap();
    pid
}

async fn copies_share_their_blocks() {
    let disk = Mounted::new().unwrap();
    let dir = Scratch::below(&disk.dir);
    let server = start(18, &dir).await;
    let node = server.node();
    let platform = superuser(&node, "postgres").await;
    let row = platform
        .query_one("SHOW file_copy_method", &[])
        .await
        .unwrap();
    assert_eq!(row.get::<_, &str>(0), "clone");

    let source = filled(&node).await;
    let copy = Template::Copy(source.clone());
    assert_eq!(
        node.prepare_copy(&copy).await.unwrap(),
        ClonePath::FileClone
    );
    let before = used(dir.path());
    let branch = kit::pid();
    node.create_logins(&branch).await.unwrap();
    let report = node.create_database(&branch, &copy).await.unwrap();
    assert_eq!(report.path, ClonePath::FileClone);
    node.open(&branch).await.unwrap();
    node.open(&source).await.unwrap();
    let grown = used(dir.path()).saturating_sub(before);
    let bytes = node.database_bytes(&branch).await.unwrap().unwrap();
    println!(
        "cloned {} MB in {:?}, {} MB of disk",
        bytes / MB,
        report.took,
        grown / MB
    );
    assert!(
        bytes > 150 * MB && grown < 40 * MB,
        "{bytes} B took {grown} B"
    );
    // Generous: without sharing it is seconds here, with it a tenth of one.
    assert!(report.took < Duration::from_secs(30), "{:?}", report.took);

    // What is written to one is not seen in the other.
    let (a, b) = (
        login(&node, &source, Role::Admin).await.unwrap(),
        login(&node, &branch, Role::Admin).await.unwrap(),
    );
    b.batch_execute("UPDATE t SET v = 'changed'").await.unwrap();
    a.batch_execute("DELETE FROM t WHERE ctid = '(0,1)'")
        .await
        .unwrap();
    platform.batch_execute("CHECKPOINT").await.unwrap();
    let sql = "SELECT count(*), min(length(v)) FROM t";
    let counted = async |client: &tokio_postgres::Client| {
        let row = client.query_one(sql, &[]).await.unwrap();
        (row.get::<_, i64>(0), row.get::<_, i32>(1))
    };
    assert_eq!(
        (counted(&a).await, counted(&b).await),
        ((149, 1_000_000), (150, 7))
    );
    // The template's copies share, too.
    let before = used(dir.path());
    create(&node).await;
    let grown = used(dir.path()).saturating_sub(before);
    assert!(grown < 4 * MB, "an empty database took {grown} B");
    drop((a, b, platform));
    server.stop(STOP).await;

    // 15 has no such way on the same disk.
    let dir = Scratch::below(&disk.dir);
    let server = start(15, &dir).await;
    let way = server.node().prepare_copy(&Template::Empty).await.unwrap();
    assert_eq!(way, ClonePath::WalLog);
    server.stop(STOP).await;
}
