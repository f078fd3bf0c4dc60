//! Kills while the server writes a dump: what was asked for is a whole file or none, and nothing is left of it.

use std::{
    fs,
    path::Path,
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use kit::program::wait_for;

use super::{
    case::tenant_in_use,
    point::{Kept, Point},
    world::{Tenant, World},
};

/// For a command whose server died, and for the next dump: there is nobody else to wait for.
const END_MAX: Duration = Duration::from_secs(60);
/// Between two looks at logins: there is nothing to be woken by.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// What its owner's own `pg_dump` does not see, so that the server writes the dump.
const HIDDEN: &str = "what row security hides";

/// `tenantry db dump` into this file.
fn dump(world: &World, tenant: &Tenant, file: &Path) -> Child {
    let file = file.to_str().expect("a path of ours");
    let mut command = world
        .stack
        .cli_command(&["db", "dump", &tenant.id, "-o", file]);
    command
        .env("TENANTRY_API_KEY", world.stack.operator_key())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.spawn().expect("start the command")
}

/// Whether it says that there is a dump.
#[track_caller]
fn ended(mut command: Child) -> bool {
    let status = wait_for("the end of the command", END_MAX, || {
        command.try_wait().expect("look at the command")
    });
    status.success()
}

/// There is a whole dump where one was acknowledged, and otherwise nothing at all.
#[track_caller]
fn assert_whole_or_none(point: Point, dir: &Path, is_there: bool) {
    let files: Vec<_> = fs::read_dir(dir)
        .expect("the folder of dumps")
        .map(|file| file.expect("a file").path())
        .collect();
    assert_eq!(files.len(), usize::from(is_there), "{point}: {files:?}");
    for file in files {
        let text = fs::read_to_string(&file).expect("a dump");
        assert!(
            text.contains(HIDDEN) && text.contains("database dump complete"),
            "{point}: {text}"
        );
        fs::remove_file(file).expect("remove a dump");
    }
}

/// The login that all dumps of a database share is gone.
async fn wait_no_login(world: &World, point: Point) {
    let started = Instant::now();
    let sql = "SELECT count(*) FROM pg_roles WHERE rolname ~ '^x_.*_export$'";
    loop {
        let superuser = world.superuser("postgres").await.expect("PostgreSQL");
        let left = superuser.query_one(sql, &[]).await.expect("count logins");
        if left.get::<_, i64>(0) == 0 {
            return;
        }
        assert!(started.elapsed() < END_MAX, "{point}: a login is left");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

pub(crate) async fn write(world: &mut World, point: Point) -> Tenant {
    let tenant = tenant_in_use(world).await;
    let owner = world.login(&tenant.id, &tenant.password).await;
    let hide = format!(
        "CREATE TABLE hidden AS SELECT '{HIDDEN}' AS v; ALTER TABLE hidden ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY"
    );
    let hidden = owner.expect("login").batch_execute(&hide).await;
    hidden.expect("a table with row security");
    let dir = world.stack.scratch().join("dumps");
    fs::create_dir_all(&dir).expect("make a folder of dumps");
    let file = dir.join("main.sql");

    world.arm(&point.name());
    let command = dump(world, &tenant, &file);
    world.wait_reached(&point.name());
    world.kill_and_return(point.kill);
    let is_there = ended(command);
    // Only a server that lives can say that it was all.
    assert!(!is_there || point.kept() == Kept::Either, "{point}");
    assert_whole_or_none(point, &dir, is_there);
    world.wait_back().await;
    wait_no_login(world, point).await;

    // Nothing of it is in the way of the next one.
    wait_for("another dump", END_MAX, || {
        ended(dump(world, &tenant, &file)).then_some(())
    });
    assert_whole_or_none(point, &dir, true);
    wait_no_login(world, point).await;
    world.assert_canary(&tenant).await;
    tenant
}
