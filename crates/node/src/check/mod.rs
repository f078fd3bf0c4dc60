//! The deep checker: compares what is on a server with what should be there.
//!
//! Owns: what counts as a finding, and the order of looking: databases and roles (`server`), the
//! configuration (`configuration`), then the inside of every open tenant database (`inside`, `grants`). Changes nothing;
//! [`Node::repair_logins`] sets back what a tenant can change on its own roles.

mod configuration;
mod grants;
mod inside;
mod server;

use std::{collections::BTreeMap, fmt, pin::pin};

use futures_util::{StreamExt as _, stream};
use model::Pid;
use tokio::time::Instant;

use crate::{
    DatabaseState, Node, NodeError, Physical,
    handle::{Lease, TEMPLATE_DATABASE},
    steps::{BOOTSTRAP, TENANT},
};
use server::Roles;

/// Age of a database, in transactions, from which an operator is warned. A quarter of the way to the
/// end; a server at 10,000 transactions a second has two days left.
const AGE_WARN: u32 = 500_000_000;

/// Tenants whose logins and databases are looked at at once: half of the maintenance connections, so that
/// creates go on beside a check.
const AT_ONCE: usize = 2;

/// How far one part of a check goes.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    /// So many tenants at most.
    pub count: usize,
    /// It ends with the tenant that is looked at then. One is always looked at.
    pub until: Option<Instant>,
}

impl Part {
    /// All of them.
    pub const ALL: Self = Self {
        count: usize::MAX,
        until: None,
    };
}

/// What one part of a check found.
#[derive(Debug)]
pub struct Checked {
    /// Sorted.
    pub findings: Vec<Finding>,
    /// Physical ids that were looked at.
    pub count: usize,
    /// Those that are on the server.
    pub total: usize,
    /// The last of them, when more follow.
    pub next_after: Option<Pid>,
}

/// What should be on the server for one physical id.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Expected {
    /// Which.
    pub pid: Pid,
    /// How.
    pub state: ExpectedState,
}

/// How a tenant should be found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ExpectedState {
    /// Database open, all logins there.
    Open,
    /// Database there and closed.
    Closed,
    /// The same, but for a while: a restore backs up what it replaces. Open to the login that reads it, and to nobody else.
    BackedUp,
    /// A step is under way: whatever is there is neither missing nor orphaned.
    Changing,
}

/// Something that is not as it should be.
#[derive(Clone, Debug, Eq, PartialEq, PartialOrd, Ord)]
pub struct Finding {
    /// What kind.
    pub kind: FindingKind,
    /// Name of the database, role or file.
    pub subject: String,
    /// What was found, for the operator. Holds no data, names or settings' values of a tenant.
    pub detail: String,
}

impl Finding {
    fn new(kind: FindingKind, subject: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            kind,
            subject: subject.into(),
            detail: detail.into(),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}: {}", self.kind, self.subject, self.detail)
    }
}

/// Kinds of findings.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Hash, PartialOrd, Ord)]
pub enum FindingKind {
    /// A database of our form that nobody expects. Never removed by itself.
    OrphanDatabase,
    /// A role of our form that belongs to nothing expected. Never removed by itself.
    OrphanRole,
    /// A tenant's database is not there, or only the rest of an interrupted drop.
    MissingDatabase,
    /// A role of a tenant, or a group, is not there.
    MissingRole,
    /// Open although it should be closed, or the other way round.
    WrongAccess,
    /// PUBLIC may connect, or more. Every tenant of the server is PUBLIC.
    PublicAccess,
    /// A grant on a database that should not be, or one that is not and should.
    DatabaseAcl,
    /// A database of ours belongs to somebody else.
    DatabaseOwner,
    /// A role of ours can do more, or less, than it should by itself.
    RoleAttributes,
    /// A login has a password that is not ours: the proxy cannot log in.
    RolePassword,
    /// A membership too many, too few, or with other options.
    Membership,
    /// A setting is stored for a role or database of ours.
    StoredSetting,
    /// The template is not as it was sealed.
    Template,
    /// Something inside a tenant database belongs to a role with rights beyond it.
    PrivilegedOwner,
    /// Something inside a tenant database belongs to a role that names a tenant.
    NamedOwner,
    /// A grant on a function of PostgreSQL or of an extension that neither came with it nor is ours,
    /// or one of ours that is not there.
    FunctionAcl,
    /// The same of any other object of theirs: a catalog, a language, a setting, a tablespace; or it
    /// belongs to somebody else.
    CatalogAcl,
    /// An extension that must not be in a tenant database.
    Extension,
    /// A file of ours, or a setting, differs from what we wrote and `operator.conf` adds.
    Configuration,
    /// A database is so many transactions old that freezing it cannot wait.
    TransactionAge,
    /// A database could not be looked into.
    Unvisited,
}

impl Node {
    /// Compares the server with `expected`, which names every tenant of this node: what they share, then
    /// every tenant.
    ///
    /// # Errors
    ///
    /// Those of the server; a database that cannot be visited is a finding instead.
    pub async fn check(&self, expected: &[Expected]) -> Result<Vec<Finding>, NodeError> {
        let mut findings = self.check_server(expected).await?;
        findings.extend(self.check_some(None, Part::ALL).await?.findings);
        findings.sort_unstable();
        Ok(findings)
    }

    /// The first half of [`Self::check`]: what can be seen of all tenants in some statements. Derives no
    /// password and enters no database of a tenant.
    ///
    /// # Errors
    ///
    /// Those of the server.
    pub async fn check_server(&self, expected: &[Expected]) -> Result<Vec<Finding>, NodeError> {
        const STEP: &str = "check";
        let mut findings = Vec::new();
        let seen = self.inventory().await?;
        compare(expected, &seen, &mut findings);
        {
            let lease = self.lease(STEP).await?;
            self.check_databases(&lease, None, expected, &mut findings)
                .await?;
            let roles = Roles::read(self, &lease, None).await?;
            roles.check_groups(&mut findings);
            roles.check_strays(&seen, expected, &mut findings);
            self.check_settings(&lease, None, &mut findings).await?;
            self.check_shared_grants(&lease, &mut findings).await?;
            self.check_template(&lease, &mut findings).await?;
            self.check_configuration(&lease, &mut findings).await?;
            self.check_age(&lease, &mut findings).await?;
            lease.give_back();
        }
        findings.sort_unstable();
        Ok(findings)
    }

    /// The other half of [`Self::check`]: logins and the inside of the open databases of tenants, in the
    /// order of physical ids behind `after`. What takes its time is bounded for each of them.
    ///
    /// # Errors
    ///
    /// Those of the server; a database that cannot be visited is a finding instead.
    pub async fn check_some(&self, after: Option<&Pid>, part: Part) -> Result<Checked, NodeError> {
        const STEP: &str = "check logins";
        let seen = self.inventory().await?;
        let lease = self.lease(STEP).await?;
        let roles = Roles::read(self, &lease, None).await?;
        // A look takes a permit of its own: never wait for one while holding another.
        lease.give_back();
        let total = seen.len();
        let due = seen
            .into_iter()
            .filter(|one| after.is_none_or(|after| one.pid > *after));
        let due: Vec<Physical> = due.collect();
        let left = due.len();
        let due = due.into_iter().take(part.count);
        let looks: Vec<_> = due.map(|one| self.check_one(one, &roles)).collect();
        let mut looks = pin!(stream::iter(looks).buffered(AT_ONCE));
        let mut findings = Vec::new();
        let (mut count, mut last) = (0, None);
        while let Some((pid, found)) = looks.next().await {
            findings.extend(found);
            count += 1;
            last = Some(pid);
            if part.until.is_some_and(|until| Instant::now() >= until) {
                break;
            }
        }
        findings.sort_unstable();
        Ok(Checked {
            findings,
            count,
            total,
            next_after: last.filter(|_| count < left),
        })
    }

    async fn check_one(&self, physical: Physical, roles: &Roles) -> (Pid, Vec<Finding>) {
        let mut findings = Vec::new();
        self.check_logins(&physical, roles, &mut findings).await;
        let is_filled = roles.is_being_filled(&physical.pid.database());
        if physical.database == DatabaseState::Open && !is_filled {
            self.check_inside(&physical.pid, &mut findings).await;
        }
        (physical.pid, findings)
    }

    /// Like [`Self::check`], for one tenant: after a create, clone, deployment or restore.
    ///
    /// # Errors
    ///
    /// Those of the server.
    pub async fn check_tenant(&self, expected: &Expected) -> Result<Vec<Finding>, NodeError> {
        const STEP: &str = "check one tenant";
        let mut findings = Vec::new();
        let seen = self.physical(&expected.pid).await?;
        let expected = std::slice::from_ref(expected);
        compare(expected, std::slice::from_ref(&seen), &mut findings);
        let name = seen.pid.database();
        let lease = self.lease(STEP).await?;
        self.check_databases(&lease, Some(&name), expected, &mut findings)
            .await?;
        let roles = Roles::read(self, &lease, Some(&name)).await?;
        self.check_logins(&seen, &roles, &mut findings).await;
        self.check_settings(&lease, Some(&name), &mut findings)
            .await?;
        lease.give_back();
        if seen.database == DatabaseState::Open {
            self.check_inside(&seen.pid, &mut findings).await;
        }
        findings.sort_unstable();
        Ok(findings)
    }

    /// Sets passwords, attributes, memberships and stored settings of the logins of `pid` back to
    /// ours. Returns what was not as it should be; when that is nothing, nothing was written.
    ///
    /// # Errors
    ///
    /// Those of the server. Refused (55P03) while an open transaction of the tenant changes them.
    pub async fn repair_logins(&self, pid: &Pid) -> Result<Vec<Finding>, NodeError> {
        const STEP: &str = "repair logins";
        let name = pid.database();
        let seen = self.physical(pid).await?;
        let mut findings = Vec::new();
        let lease = self.lease(STEP).await?;
        let roles = Roles::read(self, &lease, Some(&name)).await?;
        self.check_logins(&seen, &roles, &mut findings).await;
        self.check_settings(&lease, Some(&name), &mut findings)
            .await?;
        lease.give_back();
        if findings.is_empty() {
            return Ok(findings);
        }
        self.create_logins(pid).await?;
        for (role, user) in roles.users(pid) {
            self.create_user(pid, role, &user).await?;
        }
        for sql in roles.revokes(self.server_version()) {
            self.run(STEP, &sql).await?;
        }
        self.run(STEP, &TENANT.fill("forget_settings", &[])).await?;
        Ok(findings)
    }

    /// Sets groups and stored settings back to ours, for all tenants at once: what any of them can
    /// change, though without effect, on what all share. Returns what was not as it should be; when
    /// that is nothing, nothing was written.
    ///
    /// # Errors
    ///
    /// Those of the server.
    pub async fn repair_shared(&self) -> Result<Vec<Finding>, NodeError> {
        const STEP: &str = "repair groups";
        let mut findings = Vec::new();
        let lease = self.lease(STEP).await?;
        Roles::read(self, &lease, None)
            .await?
            .check_groups(&mut findings);
        self.check_settings(&lease, None, &mut findings).await?;
        lease.give_back();
        if !findings.is_empty() {
            self.run(STEP, &BOOTSTRAP.fill("groups", &[])).await?;
            self.run(STEP, &TENANT.fill("forget_settings", &[])).await?;
        }
        findings.sort_unstable();
        Ok(findings)
    }

    /// Passwords are compared by deriving them: milliseconds of CPU for each tenant.
    async fn check_logins(&self, seen: &Physical, roles: &Roles, findings: &mut Vec<Finding>) {
        let node = self.clone();
        let pid = seen.pid.clone();
        let users = roles.users(&pid);
        let derive = move || {
            let own =
                model::Role::ALL.map(|role| (role, role.login(&pid), node.verifier(&pid, role)));
            let users = users.iter().map(|(role, user)| {
                let verifier = node.user_verifier(&pid, *role, user);
                (*role, role.user_login(&pid, user), verifier)
            });
            own.into_iter().chain(users).collect::<Vec<_>>()
        };
        let verifiers = tokio::task::spawn_blocking(derive).await;
        roles.check_logins(
            seen,
            &verifiers.expect("deriving a password does not panic"),
            findings,
        );
    }

    async fn check_template(
        &self,
        lease: &Lease,
        findings: &mut Vec<Finding>,
    ) -> Result<(), NodeError> {
        let wrong = match self.seal(lease, TEMPLATE_DATABASE).await? {
            Some(seal) if seal.holds() => return Ok(()),
            Some(_) => "not sealed, or not of this version; a restart makes it right",
            None => "there is none; a restart makes one",
        };
        findings.push(Finding::new(
            FindingKind::Template,
            TEMPLATE_DATABASE,
            wrong,
        ));
        Ok(())
    }

    /// PostgreSQL freezes by itself at 200 million; what is much older, it did not get to.
    async fn check_age(&self, lease: &Lease, findings: &mut Vec<Finding>) -> Result<(), NodeError> {
        const OLD: &str = "SELECT datname::text, age(datfrozenxid) FROM pg_database \
             WHERE age(datfrozenxid) >= $1";
        let rows = self
            .rows(lease, "look at ages", OLD, &[&AGE_WARN.cast_signed()])
            .await?;
        for row in rows {
            let detail = format!(
                "{} transactions old; at 2 billion the server refuses to write: find what holds \
                 back VACUUM (FREEZE) there",
                row.get::<_, i32>(1)
            );
            let database: String = row.get(0);
            findings.push(Finding::new(FindingKind::TransactionAge, database, detail));
        }
        Ok(())
    }
}

/// Orphans, and what is missing or in the wrong state.
fn compare(expected: &[Expected], seen: &[Physical], findings: &mut Vec<Finding>) {
    let wanted: BTreeMap<&Pid, ExpectedState> =
        expected.iter().map(|one| (&one.pid, one.state)).collect();
    for one in seen {
        let name = one.pid.database();
        let mut find = |kind, detail| findings.push(Finding::new(kind, &name, detail));
        match (wanted.get(&one.pid), one.database) {
            (None, DatabaseState::Absent) => find(FindingKind::OrphanRole, "no tenant has it"),
            (None, _) => find(FindingKind::OrphanDatabase, "no tenant has it"),
            (Some(ExpectedState::Changing), _)
            | (Some(ExpectedState::Open), DatabaseState::Open)
            | (Some(ExpectedState::Closed | ExpectedState::BackedUp), DatabaseState::Closed)
            | (Some(ExpectedState::BackedUp), DatabaseState::Open) => {}
            (Some(_), DatabaseState::Absent) => {
                find(FindingKind::MissingDatabase, "only roles are there");
            }
            (Some(_), DatabaseState::Broken) => {
                find(FindingKind::MissingDatabase, "dropping it was interrupted");
            }
            (Some(ExpectedState::Open), DatabaseState::Closed) => {
                find(FindingKind::WrongAccess, "refuses connections");
            }
            (Some(ExpectedState::Closed), DatabaseState::Open) => {
                find(FindingKind::WrongAccess, "accepts connections");
            }
        }
        let settled = wanted
            .get(&one.pid)
            .is_some_and(|state| *state != ExpectedState::Changing);
        if settled && (!one.wall || one.logins.len() < model::Role::ALL.len()) {
            find(FindingKind::MissingRole, "not all of its roles are there");
        }
    }
    for (pid, state) in wanted {
        if state != ExpectedState::Changing && !seen.iter().any(|one| one.pid == *pid) {
            let detail = "nothing of it is there";
            findings.push(Finding::new(
                FindingKind::MissingDatabase,
                pid.database(),
                detail,
            ));
        }
    }
}
