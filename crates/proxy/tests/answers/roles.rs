//! Statements that were prepared as another role than the one that uses them.

use wire::message::{Kind, build};

use crate::{
    end,
    kit::pair::{Pair, parse, run_prepared},
    run, start,
};

/// Whoever a session is behind a change of its role may not see what its statements name. They are there before it also
/// where another session has the server connection on which they were prepared.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_the_role_finds_statements_there_on_another_server_connection() {
    let (stack, tenant) = start().await;
    tokio::task::block_in_place(|| {
        for (role, way) in [
            ("SET ROLE NONE", "query"),
            ("SET ROLE NONE", "unnamed"),
            ("SET ROLE NONE", "named"),
            ("SELECT set_config('role', 'none', false)", "query"),
            ("SELECT set_config('role', 'none', false)", "unnamed"),
            ("SELECT set_config('role', 'none', false)", "named"),
        ] {
            for was_another in [false, true] {
                let mut pair = Pair::new(&stack, &tenant, "auto", &[]);
                let mut other = Pair::new(&stack, &tenant, "auto", &[]);
                let sql = format!("SELECT v, '{way} {role} {was_another}' FROM s2.t");
                parse(&mut pair, "theirs", &sql);
                parse(&mut pair, "changes", role);
                if was_another {
                    pair.query("SET ROLE NONE");
                    pair.query("SET ROLE tenantry_admin");
                    pair.query("SELECT 1");
                }
                other.query("BEGIN");
                let mut bytes = Vec::new();
                match way {
                    "query" => build::query(role, &mut bytes),
                    name => {
                        let name = if name == "named" { "changes" } else { "" };
                        if name.is_empty() {
                            build::parse(b"", role.as_bytes(), &[], &mut bytes);
                        }
                        build::bind_nothing(b"", name.as_bytes(), &mut bytes);
                        build::execute(b"", 0, &mut bytes);
                        build::sync(&mut bytes);
                    }
                }
                pair.flight(format!("{role}, {way}"), &bytes, 1);
                let mut bytes = Vec::new();
                build::describe(Kind::Statement, b"theirs", &mut bytes);
                build::sync(&mut bytes);
                pair.flight("describe theirs".to_owned(), &bytes, 1);
                other.query("COMMIT");
                pair.query("SET ROLE tenantry_admin");
                run_prepared(&mut pair, "theirs");
            }
        }
    });
    end(&stack).await;
}

/// What a role of one transaction may not see was prepared by the role before.
#[tokio::test(flavor = "multi_thread")]
async fn statements_are_what_they_were_under_the_role_of_a_transaction() {
    let (stack, tenant) = start().await;
    tokio::task::block_in_place(|| {
        for role in [
            "SET LOCAL ROLE NONE",
            "SELECT set_config('role', 'none', true)",
            "SET ROLE NONE",
        ] {
            for is_by_query in [true, false] {
                let mut pair = Pair::new(&stack, &tenant, "auto", &[]);
                parse(&mut pair, "one", "SELECT v, current_user FROM s1.t");
                pair.query("BEGIN");
                if is_by_query {
                    pair.query(role);
                } else {
                    run(&mut pair, role);
                }
                let mut bytes = Vec::new();
                build::describe(Kind::Statement, b"one", &mut bytes);
                build::sync(&mut bytes);
                pair.flight("describe one".to_owned(), &bytes, 1);
                pair.query("SELECT current_user = session_user");
                pair.query("ROLLBACK");
                run_prepared(&mut pair, "one");
            }
        }
    });
    end(&stack).await;
}
