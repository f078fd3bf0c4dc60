//! Sessions through a proxy to a real PostgreSQL.

mod kit;

use kit::Stack;
use model::Role;

#[tokio::test(flavor = "multi_thread")]
async fn a_client_reaches_its_own_database_and_role() {
    let stack = Stack::start(|_| {}).await;
    let tenant = stack.tenant();
    for role in Role::ALL {
        let client = stack.connect(&tenant, role).await;
        let row = client
            .query_one(
                "SELECT current_database()::text, session_user::text, current_user::text",
                &[],
            )
            .await
            .unwrap();
        assert_eq!(row.get::<_, String>(0), tenant.pid.database());
        assert_eq!(row.get::<_, String>(1), role.login(&tenant.pid));
        assert_eq!(row.get::<_, String>(2), role.group().as_str());
    }
}
