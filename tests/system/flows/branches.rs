//! F5 and F6: a branch to look at a change, and one to go back to.

use std::{fs, time::Duration};

use kit::{
    Stack,
    program::{psql, run, wait_for},
};
use serde_json::{Value, json};

use super::shell;

/// For a branch of a small database, on a busy machine.
const BRANCH_MAX: Duration = Duration::from_secs(120);

const USERS: &str = "create table users (id int primary key, name text);\ninsert into users values (1, 'ann'), (2, 'bob');\n";
const MIGRATION: &str = "alter table users add column plan text not null default 'free';\n\
     insert into users values (3, 'eve', 'paid');\n";

/// `production` with two users.
fn production() -> Stack {
    let stack = Stack::start();
    stack.cli(&["create", "production"]).ok();
    stack
        .cli_with_input(&["db", "connect", "production"], USERS)
        .ok();
    fs::write(stack.scratch().join("migration.sql"), MIGRATION).unwrap();
    stack
}

fn ask(address: &str, query: &str) -> String {
    run(psql(address).args(["-c", query])).ok().to_owned()
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name]
        .as_str()
        .unwrap_or_else(|| panic!("{name}: {value}"))
}

/// F5 by commands: polled until it is there, and waited for; a migration from a file; what one side writes the
/// other does not see; deleted in both ways.
#[test]
fn a_preview_branch_takes_a_migration_and_production_stays() {
    let stack = production();
    let line = "tenantry branch create production --name preview-42 --json";
    let made = run(&mut shell(&stack, line)).json();
    assert!(
        ["CREATING", "CLONING", "ACTIVE"].contains(&text(&made, "state")),
        "{made}"
    );
    wait_for("the branch", BRANCH_MAX, || {
        let state = run(&mut shell(&stack, "tenantry db status preview-42 --json")).json();
        assert_ne!(state["state"], "CREATE_FAILED", "{state}");
        (state["state"] == "ACTIVE").then_some(())
    });
    let line = "tenantry db connect preview-42 < migration.sql";
    run(&mut shell(&stack, line)).ok();
    let count = |name: &str| {
        let line = format!("tenantry db connect {name} -c 'SELECT count(*) FROM users'");
        let ran = run(&mut shell(&stack, &line));
        ran.ok().lines().nth(2).unwrap().trim().to_owned()
    };
    assert_eq!(
        (count("production"), count("preview-42")),
        ("2".into(), "3".into())
    );
    let line = "tenantry db connect production -c \"DELETE FROM users WHERE id = 1\"";
    run(&mut shell(&stack, line)).ok();
    assert_eq!(
        (count("production"), count("preview-42")),
        ("1".into(), "3".into())
    );
    let diff = run(&mut shell(&stack, "tenantry branch diff preview-42"));
    assert!(diff.ok().contains("+ column public.users.plan"), "{diff:?}");

    // The one line for a script, with an address for any client.
    let line = "tenantry branch create production --name preview-43 --wait --quiet >/dev/null
        psql \"$(tenantry db connect preview-43 --quiet)\" -Atc 'SELECT name FROM users'";
    assert_eq!(run(&mut shell(&stack, line)).ok(), "bob");
    let listed = stack
        .cli(&["branch", "list", "production", "--json"])
        .json();
    let names: Vec<_> = listed
        .as_array()
        .unwrap()
        .iter()
        .map(|one| text(one, "name"))
        .collect();
    assert_eq!(names, ["preview-42", "preview-43"]);

    let line = "tenantry delete preview-42 --yes; tenantry branch delete preview-43 --yes";
    run(&mut shell(&stack, line)).ok();
    assert_eq!(stack.listed(), ["production"]);
    assert_eq!(count("production"), "1");
    assert_eq!(stack.log_at(&["ERROR"]), Vec::<String>::new());
}

/// F5 by the API: a bearer token and a name; the answer has id and address, which opens the branch and nothing
/// else; polled until ACTIVE, or asked to wait.
// Two threads: while a program runs here, the connection to the API is looked after.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_preview_branch_is_made_by_one_request() {
    let stack = Stack::start();
    let api = stack.anonymous().await;
    let parent = api.create("production").await;
    run(psql(text(&parent, "connection_string")).args(["-q", "-c", USERS])).ok();
    let (id, base) = (text(&parent, "id"), "/customer/databases");

    let path = format!("{base}/{id}/branch");
    let made = api.post(&path, json!({ "name": "preview-42" })).await;
    assert_eq!(made.status, 201);
    let made = made.ok();
    assert_eq!(text(&made, "parent_database_id"), id);
    assert_ne!(text(&made, "id"), id);
    let path = format!("{base}/{}", text(&made, "id"));
    loop {
        let now = api.get(&path).await.ok();
        match text(&now, "state") {
            "CREATING" | "CLONING" => {}
            "ACTIVE" => break,
            state => panic!("{state}: {now}"),
        }
        tokio::task::yield_now().await;
    }
    let (address, theirs) = (
        text(&made, "connection_string"),
        text(&parent, "connection_string"),
    );
    assert!(address.ends_with("sslmode=require"), "{address}");
    run(psql(address).args(["-q", "-c", MIGRATION])).ok();
    run(psql(theirs).args(["-q", "-c", "insert into users values (9, 'zoe')"])).ok();
    assert_eq!(
        ask(
            address,
            "select string_agg(name, ' ' order by id) from users"
        ),
        "ann bob eve"
    );
    assert_eq!(
        ask(
            theirs,
            "select string_agg(name, ' ' order by id) from users"
        ),
        "ann bob zoe"
    );
    // The parent's password is none of the branch's.
    let branch_user = text(&made, "admin_user");
    let stolen = theirs.replace(text(&parent, "admin_user"), branch_user);
    let refused = run(psql(&stolen).args(["-c", "select 1"]));
    assert!(
        refused.failed(2).contains("password authentication failed"),
        "{refused:?}"
    );

    let path_waiting = format!("{base}/{id}/branch?wait=60");
    let waited = api
        .post(&path_waiting, json!({ "name": "preview-43" }))
        .await
        .ok();
    assert_eq!(text(&waited, "state"), "ACTIVE", "{waited}");
    assert_eq!(
        ask(
            text(&waited, "connection_string"),
            "select count(*) from users"
        ),
        "3"
    );
    let taken = api
        .post(&path_waiting, json!({ "name": "preview-43" }))
        .await;
    assert_eq!(taken.code(409), "name_taken");

    for one in [&made, &waited] {
        api.delete(&format!("{base}/{}", text(one, "id")))
            .await
            .ok();
    }
    assert_eq!(
        api.get(&path).await.ok()["state"]
            .as_str()
            .map(|s| s.starts_with("DISABL")),
        Some(true)
    );
    assert_eq!(ask(theirs, "select count(*) from users"), "3");
}

/// F6: a branch is made before a migration. The good ending deletes it; in the bad one the migration broke data,
/// and the application, which only knows an address, is pointed at the branch.
#[test]
fn a_branch_from_before_a_migration_is_what_one_goes_back_to() {
    let stack = Stack::start();
    let begin = r#"
        tenantry create app --quiet >/dev/null
        tenantry db connect app -c "CREATE TABLE accounts (id int PRIMARY KEY, balance numeric NOT NULL)" \
            -c "INSERT INTO accounts VALUES (1, 10.50), (2, 0.25)" >/dev/null
        tenantry branch create app --name "pre-migration-$(date +%Y%m%d)" --wait --quiet >/dev/null
        tenantry db connect app -c "ALTER TABLE accounts ALTER balance TYPE bigint USING (balance * 100)::bigint" >/dev/null
        psql "$(tenantry db connect app --quiet)" -Atc 'SELECT sum(balance) FROM accounts'"#;
    assert_eq!(run(&mut shell(&stack, begin)).ok(), "1075");
    let good = r#"tenantry branch delete "pre-migration-$(date +%Y%m%d)" --yes >/dev/null; tenantry list --output raw | cut -f2"#;
    assert_eq!(run(&mut shell(&stack, good)).ok(), "app");

    let bad = r#"
        before="pre-migration-2-$(date +%Y%m%d)"
        tenantry branch create app --name "$before" --wait --quiet >/dev/null
        tenantry db connect app -c "ALTER TABLE accounts ALTER balance TYPE int USING 0" >/dev/null
        test "$(psql "$(tenantry db connect app --quiet)" -Atc 'SELECT sum(balance) FROM accounts')" = 0
        tenantry db connect "$before" --env >app.env"#;
    run(&mut shell(&stack, bad)).ok();
    let app = r#"
        . ./app.env
        psql "$DATABASE_URL" -qAt -c 'INSERT INTO accounts VALUES (3, 5)' -c 'SELECT sum(balance) FROM accounts'"#;
    assert_eq!(run(&mut shell(&stack, app)).ok(), "1080");

    // What is broken may go, and the branch takes its name: the address stays what it is.
    let settle = r#"
        tenantry delete app --yes >/dev/null
        tenantry rename "pre-migration-2-$(date +%Y%m%d)" app >/dev/null
        . ./app.env
        psql "$DATABASE_URL" -Atc 'SELECT count(*) FROM accounts'"#;
    assert_eq!(run(&mut shell(&stack, settle)).ok(), "3");
    assert_eq!(stack.listed(), ["app"]);
}
