//! The crash suite: at every step of every operation somebody is killed, and nothing is lost.
//!
//! Owns: which kills are tried on which stack. What a step is reached by, and what a kill may leave
//! of it, is in [`point`], and is decided anew for every new step: it does not compile before. What
//! a user may rely on is in [`case`], what an operator may in [`world`]. Deaths that no step is
//! part of are in [`single`].
//!
//! One stack serves many cases, so every case also shows that the ones before left nothing.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod backups;
mod case;
mod dumps;
mod point;
mod projects;
mod request;
mod single;
mod users;
mod world;

use std::{
    io::Write as _,
    time::{Duration, Instant},
};

use control::Step;
use kit::{StackConfig, postgres::Postgres};

use point::{Kill, Operation, Point, points};
use world::World;

/// Long enough that nothing is purged by accident.
const KEPT_LONG: &str = "24h";
/// Short, and longer than a delete takes to be answered.
const KEPT_SHORT: &str = "1s";

/// Operations on a tenant, on a stack without a pool: a create then has all its steps.
const OF_TENANTS: [Operation; 6] = [
    Operation::Create,
    Operation::Delete,
    Operation::Undelete,
    Operation::ResetPassword,
    Operation::Suspend,
    Operation::Resume,
];

/// What is said of a tenant without a touch of its database, and its end by the clock.
const OF_LIFETIMES: [Operation; 3] = [Operation::Rename, Operation::SetExpiry, Operation::Expire];

/// Whose a tenant is.
const OF_PROJECTS: [Operation; 2] = [Operation::Adopt, Operation::Claim];

/// Who logs in to a tenant under a name of its own.
const OF_USERS: [Operation; 2] = [Operation::CreateUser, Operation::DeleteUser];

/// A database that is a copy of another one.
const OF_BRANCHES: [Operation; 2] = [Operation::Branch, Operation::Reset];

/// What a database was, and becomes again.
const OF_BACKUPS: [Operation; 3] = [
    Operation::Backup,
    Operation::DeleteBackup,
    Operation::Restore,
];

/// A line per case, also when the test passes: a run shows what was done.
fn tell(postgres: Postgres, what: &str, took: Duration) {
    let line = format!("crash {postgres:?} {what}: {} ms\n", took.as_millis());
    let _ = std::io::stderr().lock().write_all(line.as_bytes());
}

/// Lets a test wait for processes while its requests go on.
fn block_on(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(test);
}

async fn run_all(postgres: Postgres, pool_min: u32, retention: &str, points: &[Point]) {
    run_all_with(StackConfig::on(postgres), pool_min, retention, points).await;
}

async fn run_all_with(config: StackConfig, pool_min: u32, retention: &str, points: &[Point]) {
    assert!(!points.is_empty());
    let postgres = config.postgres;
    let mut world = World::start(config, pool_min, retention).await;
    for (done, point) in points.iter().enumerate() {
        let started = Instant::now();
        world.say_at_panic(format!("case {done} of {}: {point}", points.len()));
        case::run(&mut world, *point).await;
        world.forget_deaths();
        tell(postgres, &point.to_string(), started.elapsed());
    }
    world.finish().await;
}

fn of_tenants(postgres: Postgres, kills: &[Kill]) {
    block_on(run_all(postgres, 0, KEPT_LONG, &points(&OF_TENANTS, kills)));
}

fn of_branches(postgres: Postgres, kills: &[Kill]) {
    block_on(run_all(
        postgres,
        0,
        KEPT_LONG,
        &points(&OF_BRANCHES, kills),
    ));
}

fn of_backups(postgres: Postgres, kills: &[Kill]) {
    let all = points(&OF_BACKUPS, kills);
    block_on(run_all(postgres, 0, KEPT_LONG, &all));
}

fn of_drills(postgres: Postgres, kills: &[Kill]) {
    let all = points(&[Operation::Drill], kills);
    block_on(run_all(postgres, 0, KEPT_LONG, &all));
}

fn of_dumps(postgres: Postgres, kills: &[Kill]) {
    let all = points(&[Operation::Dump], kills);
    block_on(run_all(postgres, 0, KEPT_LONG, &all));
}

/// With a history; and what is restored there was made only for that.
fn of_moments(postgres: Postgres, kills: &[Kill]) {
    let config = StackConfig::on(postgres)
        .arg("--point-in-time")
        .arg("1h")
        // However full the disk of this machine is.
        .arg("--point-in-time-free")
        .arg("64MB");
    let all = points(&[Operation::BackupMoment, Operation::Restore], kills);
    block_on(run_all_with(config, 0, KEPT_LONG, &all));
}

fn of_lifetimes(postgres: Postgres, kills: &[Kill]) {
    let all = points(&OF_LIFETIMES, kills);
    block_on(run_all(postgres, 0, KEPT_LONG, &all));
}

fn of_projects(postgres: Postgres, kills: &[Kill]) {
    let all = points(&OF_PROJECTS, kills);
    block_on(run_all(postgres, 0, KEPT_LONG, &all));
}

fn of_users(postgres: Postgres, kills: &[Kill]) {
    let all = points(&OF_USERS, kills);
    block_on(run_all(postgres, 0, KEPT_LONG, &all));
}

/// With a pool: its refill, and a create that is one row.
fn of_the_pool(postgres: Postgres, kills: &[Kill]) {
    let mut all = points(&[Operation::Fill], kills);
    let claims = points(&[Operation::Create], kills);
    all.extend(
        claims
            .into_iter()
            .filter(|point| point.step == Step::CreateCommit),
    );
    block_on(run_all(postgres, 2, KEPT_LONG, &all));
}

fn of_purges(postgres: Postgres, kills: &[Kill]) {
    block_on(run_all(
        postgres,
        0,
        KEPT_SHORT,
        &points(&[Operation::Purge], kills),
    ));
}

#[test]
fn tenantry_killed_at_every_step_of_a_tenant_converges() {
    of_tenants(Postgres::System, &[Kill::Tenantry]);
}

#[test]
fn postgresql_killed_at_every_step_of_a_tenant_converges() {
    of_tenants(Postgres::System, &[Kill::Postgres]);
}

#[test]
fn both_killed_at_every_step_of_a_tenant_converges() {
    of_tenants(Postgres::System, &[Kill::Both]);
}

#[test]
fn tenantry_killed_at_every_step_of_a_branch_converges() {
    of_branches(Postgres::System, &[Kill::Tenantry]);
}

#[test]
fn tenantry_killed_at_every_step_of_a_backup_and_of_a_restore_converges() {
    of_backups(Postgres::System, &[Kill::Tenantry]);
}

#[test]
fn tenantry_killed_at_every_step_of_a_backup_of_a_moment_and_of_its_restore_converges() {
    of_moments(Postgres::System, &[Kill::Tenantry]);
}

#[test]
fn on_18_both_killed_at_every_step_of_a_backup_of_a_moment_and_of_its_restore_converges() {
    of_moments(Postgres::V18, &[Kill::Both]);
}

#[test]
fn on_18_both_killed_at_every_step_of_a_backup_and_of_a_restore_converges() {
    of_backups(Postgres::V18, &[Kill::Both]);
}

#[test]
fn tenantry_killed_at_every_step_of_a_drill_leaves_nothing_of_it() {
    of_drills(Postgres::System, &[Kill::Tenantry]);
}

#[test]
fn on_18_both_killed_at_every_step_of_a_drill_leaves_nothing_of_it() {
    of_drills(Postgres::V18, &[Kill::Both]);
}

#[test]
fn kills_at_every_step_of_a_dump_leave_nothing_of_it() {
    of_dumps(Postgres::System, &Kill::ALL);
}

#[test]
fn on_18_both_killed_at_every_step_of_a_dump_leaves_nothing_of_it() {
    of_dumps(Postgres::V18, &[Kill::Both]);
}

#[test]
fn on_18_both_killed_at_every_step_of_a_branch_converges() {
    of_branches(Postgres::V18, &[Kill::Both]);
}

#[test]
fn kills_at_every_step_of_a_rename_and_of_an_expiry_converge() {
    of_lifetimes(Postgres::System, &Kill::ALL);
}

#[test]
fn kills_at_every_step_of_an_adoption_and_of_a_claim_converge() {
    of_projects(Postgres::System, &Kill::ALL);
}

#[test]
fn kills_at_every_step_of_a_user_converge() {
    of_users(Postgres::System, &Kill::ALL);
}

#[test]
fn kills_at_every_step_of_the_pool_leave_complete_entries() {
    of_the_pool(Postgres::System, &Kill::ALL);
}

#[test]
fn kills_at_every_step_of_a_purge_leave_nothing() {
    of_purges(Postgres::System, &Kill::ALL);
}

#[test]
fn on_18_kills_at_every_step_of_a_tenant_converge() {
    of_tenants(Postgres::V18, &[Kill::Both]);
}

#[test]
fn on_18_kills_at_every_step_of_a_rename_and_of_an_expiry_converge() {
    of_lifetimes(Postgres::V18, &[Kill::Both]);
}

#[test]
fn on_18_kills_at_every_step_of_an_adoption_and_of_a_claim_converge() {
    of_projects(Postgres::V18, &[Kill::Both]);
}

#[test]
fn on_18_kills_at_every_step_of_the_pool_leave_complete_entries() {
    of_the_pool(Postgres::V18, &[Kill::Both, Kill::Postgres]);
}

#[test]
fn on_18_kills_at_every_step_of_a_purge_leave_nothing() {
    of_purges(Postgres::V18, &[Kill::Both, Kill::Postgres]);
}

/// Every step is tried by one of the tests above.
#[test]
fn every_step_is_killed() {
    let mut all = points(&OF_TENANTS, &[Kill::Both]);
    all.extend(points(&OF_LIFETIMES, &[Kill::Both]));
    all.extend(points(&OF_PROJECTS, &[Kill::Both]));
    all.extend(points(&[Operation::Fill, Operation::Purge], &[Kill::Both]));
    all.extend(points(&OF_BRANCHES, &[Kill::Both]));
    all.extend(points(&OF_USERS, &[Kill::Both]));
    all.extend(points(&OF_BACKUPS, &[Kill::Both]));
    all.extend(points(&[Operation::Drill], &[Kill::Both]));
    all.extend(points(&[Operation::Dump], &[Kill::Both]));
    all.extend(points(&[Operation::BackupMoment], &[Kill::Both]));
    for step in Step::ALL {
        let tried = all.iter().filter(|point| point.step == *step).count();
        assert_eq!(tried, control::Moment::ALL.len(), "{}", step.name());
    }
}
