//! The judge of what the proxy answers: the same scripts run through it and straight at PostgreSQL,
//! and every difference that a client could see is a wrong answer.
//!
//! Sessions are more than server connections, and none gets the same one twice running. Each test
//! runs for some seconds; `./dev bench wrong-answers` and `./dev bench chaos` run the same for
//! minutes, told so by the environment:
//!
//! - `TENANTRY_JUDGE_SECONDS`: for how long
//! - `TENANTRY_JUDGE_SEED`: where the random numbers begin; without it every run takes others
//! - `TENANTRY_JUDGE_FINDINGS`: after how many findings it ends; 1
//! - `TENANTRY_JUDGE_WITHOUT`: what is left out, with commas, to look past what was found already:
//!   names of settings; `startup` (settings in the startup packet); `resets` (RESET of such settings in a
//!   function); `shared-names` (SQL's PREPARE and DEALLOCATE with names that Parse gives, too); `wrong-counts` (Bind with too many values)
//! - `TENANTRY_TEST_PG_BIN`: with which PostgreSQL

#![allow(clippy::unwrap_used, reason = "a test")]
#![allow(unreachable_pub, reason = "modules of one test")]

mod answer;
mod chaos;
mod court;
mod grammar;
#[path = "../kit/mod.rs"]
mod kit;
mod line;
mod script;
mod trial;

use std::{
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};

use court::Court;
use grammar::Tribe;
use kit::Stack;
use model::route::PoolMode;
use proxy::LendingRule;
use trial::{Finding, Plan};

/// Sessions at once.
const SLOTS: usize = 8;
/// Server connections for all of them. Some are held by one session for a while.
const BUDGET: u32 = 5;

/// Scripts that may meet a statement which is out of reach, beside one in fifty: it is rare.
const OUT_OF_REACH_MAX: u64 = 2;

fn number(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(
        value
            .parse()
            .unwrap_or_else(|_| panic!("{name} is no number")),
    )
}

fn run_for(seconds: u64) -> Duration {
    Duration::from_secs(number("TENANTRY_JUDGE_SECONDS").unwrap_or(seconds))
}

fn seed() -> u64 {
    number("TENANTRY_JUDGE_SEED").unwrap_or_else(|| u64::from(rand::random::<u32>()))
}

/// Runs scripts in this pool mode; returns the seed and what they found.
async fn judge(mode: &'static str, budget: u32, tribe: Tribe, plan: Plan) -> Vec<Finding> {
    let stack = Stack::with_budget(budget, |config| {
        config.require_tls = false;
        config.lending = LendingRule::NeverTheSameTwice;
        // Sessions that hold theirs for a while make others wait.
        config.limits.budget_wait_max = Duration::from_secs(60);
    })
    .await;
    let findings = tokio::task::block_in_place(|| {
        let court = Court::open(&stack, mode, SLOTS);
        let started = Instant::now();
        let findings = trial::run(&court, SLOTS, plan);
        let (scripts, out_of_reach) = (
            court.scripts.load(Relaxed),
            court.out_of_reach.load(Relaxed),
        );
        println!(
            "{mode}, {tribe:?}, seed {}: {scripts} scripts, {} steps in {:.1} s, {out_of_reach} out of reach, {} findings",
            plan.seed,
            court.steps.load(Relaxed),
            started.elapsed().as_secs_f64(),
            findings.len(),
        );
        assert!(
            out_of_reach <= OUT_OF_REACH_MAX + scripts / 50,
            "{out_of_reach} of {scripts}"
        );
        findings
    });
    let snapshot = stack.proxy().snapshot().await;
    assert_eq!((snapshot.mismatches, snapshot.panics), (0, 0));
    findings
}

fn plan(tribe: Tribe, seconds: u64) -> Plan {
    Plan {
        tribe,
        seed: seed(),
        run_for: run_for(seconds),
        findings_max: usize::try_from(number("TENANTRY_JUDGE_FINDINGS").unwrap_or(1)).unwrap(),
        shortens: true,
    }
}

fn expect_none(plan: Plan, findings: &[Finding]) {
    let all: String = findings.iter().map(ToString::to_string).collect();
    assert!(
        findings.is_empty(),
        "seed {} ({:?}) found differences:\n{all}",
        plan.seed,
        plan.tribe
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_of_a_calm_tenant_get_the_answers_of_direct_connections() {
    let plan = plan(Tribe::Calm, 20);
    expect_none(plan, &judge("auto", BUDGET, Tribe::Calm, plan).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_of_a_wild_tenant_get_the_answers_of_direct_connections() {
    let plan = plan(Tribe::Wild, 20);
    expect_none(plan, &judge("auto", BUDGET, Tribe::Wild, plan).await);
}

/// With a server connection of its own, a session differs in nothing: what the judge would find here
/// were mistakes of its own.
#[tokio::test(flavor = "multi_thread")]
async fn in_mode_session_there_is_nothing_to_find() {
    for tribe in [Tribe::Calm, Tribe::Wild] {
        let plan = plan(tribe, 5);
        let servers = u32::try_from(SLOTS).unwrap() + 2;
        expect_none(plan, &judge("session", servers, tribe, plan).await);
    }
}

/// In mode `transaction` sessions lose what cannot be carried: a judge that finds nothing there is
/// none.
#[tokio::test(flavor = "multi_thread")]
async fn in_mode_transaction_the_judge_finds_what_is_lost() {
    for tribe in [Tribe::Calm, Tribe::Wild] {
        let plan = Plan {
            shortens: false,
            findings_max: 1,
            // Until it finds something, which takes seconds.
            run_for: Duration::from_secs(600),
            ..plan(tribe, 60)
        };
        let findings = judge("transaction", BUDGET, tribe, plan).await;
        assert!(!findings.is_empty());
    }
}

/// Runs chaos in this mode; what was found, and how much was compared.
async fn storm(mode: PoolMode, servers_die: bool, enough: chaos::Enough) -> (Vec<String>, u64) {
    let seed = seed();
    // Now, for whoever looks at a run that did not come to its end.
    println!("chaos, {mode:?}, seed {seed}: {enough:?}");
    let mut stack = Stack::with_budget(chaos::BUDGET, |config| {
        config.require_tls = false;
        config.lending = LendingRule::NeverTheSameTwice;
        config.limits.budget_wait_max = Duration::from_secs(1);
    })
    .await;
    let started = Instant::now();
    let tally =
        tokio::task::block_in_place(|| chaos::run(&mut stack, mode, servers_die, enough, seed));
    let answers = tally.answers.into_inner();
    println!(
        "chaos, {mode:?}, seed {seed}: {answers} answers in {} sessions in {:.1} s; {:?}",
        tally.sessions.into_inner(),
        started.elapsed().as_secs_f64(),
        tally.errors.into_inner().unwrap(),
    );
    let findings = tally.findings.into_inner().unwrap();
    println!("{}", findings.join("\n----\n"));
    let snapshot = stack.proxy().snapshot().await;
    assert_eq!((snapshot.mismatches, snapshot.panics), (0, 0));
    assert!(snapshot.nodes[0].servers <= chaos::BUDGET, "{snapshot:?}");
    // All are gone, and what they held is there for others.
    if mode != PoolMode::Transaction {
        let until = Instant::now() + kit::raw::SILENCE_MAX;
        loop {
            let snapshot = stack.proxy().snapshot().await;
            if snapshot.clients == 0 && snapshot.servers_idle == snapshot.nodes[0].servers as usize
            {
                break;
            }
            assert!(Instant::now() < until, "somebody stayed: {snapshot:?}");
            tokio::task::yield_now().await;
        }
    }
    (findings, answers)
}

async fn expect_calm_in_the_storm(mode: PoolMode, seconds: u64) {
    const ANSWERS_MIN: u64 = 200;
    let enough = chaos::Enough {
        time: run_for(seconds),
        answers: ANSWERS_MIN,
    };
    let (findings, answers) = storm(mode, true, enough).await;
    assert!(
        findings.is_empty(),
        "{} findings, see above",
        findings.len()
    );
    assert!(
        answers >= ANSWERS_MIN,
        "only {answers} answers were compared"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn in_chaos_every_answer_is_to_its_own_question() {
    expect_calm_in_the_storm(PoolMode::Auto, 15).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_chaos_every_answer_is_to_its_own_question_in_mode_session() {
    expect_calm_in_the_storm(PoolMode::Session, 8).await;
}

/// A temporary table that is somebody else's, or gone: chaos sees it.
#[tokio::test(flavor = "multi_thread")]
async fn in_mode_transaction_chaos_finds_what_is_lost() {
    // It takes some hundreds.
    let enough = chaos::Enough {
        time: Duration::ZERO,
        answers: 20_000,
    };
    let (findings, _) = storm(PoolMode::Transaction, false, enough).await;
    assert!(!findings.is_empty());
}
