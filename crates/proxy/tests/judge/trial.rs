//! Many sessions at once on few server connections, and what is left of a script that found
//! something.
//!
//! Owns: the sessions, when they stop, and making a script that failed shorter while the others go
//! on. Does not own: running one script (`court`).

use std::{
    collections::HashSet,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{
    court::{self, Court, Mismatch},
    grammar::{self, Tribe},
    script::{Ending, Say, Script},
};

/// How long a script is made shorter. Each try of some 40 steps takes 0.1 to 0.5 s.
const SHORTEN_FOR: Duration = Duration::from_secs(60);
/// Tries that must all find nothing, before it is believed that what was left out is needed.
const TRIES: usize = 3;

#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub tribe: Tribe,
    pub seed: u64,
    pub run_for: Duration,
    /// How many findings are enough.
    pub findings_max: usize,
    pub shortens: bool,
}

/// A script that found a difference.
pub struct Finding {
    pub slot: usize,
    pub seed: u64,
    pub mismatch: Mismatch,
    /// The script as short as it could be made, with what it then finds; `None` when it found
    /// nothing when it was tried again.
    pub short: Option<(Script, Mismatch)>,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "---- slot {}, script {:#x}", self.slot, self.seed)?;
        writeln!(f, "{}", self.mismatch)?;
        match &self.short {
            Some((script, mismatch)) => {
                writeln!(
                    f,
                    "-- shortened; beside it, other sessions ran other scripts"
                )?;
                writeln!(f, "{script}")?;
                writeln!(f, "{mismatch}")
            }
            None => writeln!(f, "-- not found again by the same script"),
        }
    }
}

/// Runs scripts until the time is over or enough was found; returns what was.
pub fn run(court: &Court<'_>, slots: usize, plan: Plan) -> Vec<Finding> {
    let findings = Mutex::new(Vec::new());
    // One of each kind is enough.
    let fresh = Mutex::new(HashSet::new());
    let stop = AtomicBool::new(false);
    let until = Instant::now() + plan.run_for;
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..slots)
            .map(|slot| {
                let (findings, fresh, stop) = (&findings, &fresh, &stop);
                scope.spawn(move || {
                    for seed in court::seeds(plan.seed, slot) {
                        if stop.load(Ordering::Relaxed) || Instant::now() > until {
                            return;
                        }
                        let script = grammar::script(plan.tribe, slot, seed);
                        let Err(mismatch) = court.run(&script) else {
                            continue;
                        };
                        if !fresh.lock().unwrap().insert(mismatch.signature()) {
                            continue;
                        }
                        let short = plan
                            .shortens
                            .then(|| shortened(court, script, &mismatch))
                            .flatten();
                        let mut findings = findings.lock().unwrap();
                        findings.push(Finding {
                            slot,
                            seed,
                            mismatch,
                            short,
                        });
                        if findings.len() >= plan.findings_max {
                            stop.store(true, Ordering::Relaxed);
                        }
                    }
                })
            })
            .collect();
        // One that shortens needs the others until it is done.
        for thread in threads {
            thread.join().unwrap();
        }
    });
    findings.into_inner().unwrap()
}

/// Whether a step without this message might be one that never ends.
fn is_needed(say: &Say) -> bool {
    say.ends_in_ready() || matches!(say, Say::CopyData(_) | Say::CopyDone | Say::CopyFail)
}

/// What a script still finds, of several tries.
fn tried(court: &Court<'_>, script: &Script) -> Option<Mismatch> {
    (0..TRIES).find_map(|_| court.run(script).err())
}

/// Leaves out what is not needed to find something. The last step that is kept is the one where it
/// shows.
fn shortened(court: &Court<'_>, script: Script, mismatch: &Mismatch) -> Option<(Script, Mismatch)> {
    let until = Instant::now() + SHORTEN_FOR;
    let mut best: Option<(Script, Mismatch)> = None;
    let mut script = script;
    if let Some(step) = mismatch.step {
        let end = (step + 1).saturating_sub(script.before.len());
        if end <= script.steps.len() {
            script.steps.truncate(end);
        }
    }
    let consider = |candidate: Script, best: &mut Option<(Script, Mismatch)>| {
        let found = tried(court, &candidate);
        let helps = found.is_some();
        if let Some(found) = found {
            *best = Some((candidate, found));
        }
        helps
    };
    if !consider(script, &mut best) {
        return None;
    }
    // Without what has no part in most findings.
    for change in [
        (|script: &mut Script| script.startup.clear()) as fn(&mut Script),
        |script| script.ending = Ending::Terminate,
        |script| script.steps.iter_mut().for_each(|step| step.pieces = 1),
    ] {
        let mut candidate = best.as_ref()?.0.clone();
        change(&mut candidate);
        consider(candidate, &mut best);
    }
    // Steps, in ever smaller groups; then single messages.
    let mut group = best.as_ref()?.0.steps.len().div_ceil(2);
    while group > 0 && Instant::now() < until {
        let mut at = 0;
        let mut helped = false;
        while at < best.as_ref()?.0.steps.len() && Instant::now() < until {
            let mut candidate = best.as_ref()?.0.clone();
            let end = (at + group).min(candidate.steps.len());
            candidate.steps.drain(at..end);
            if consider(candidate, &mut best) {
                helped = true;
            } else {
                at += group;
            }
        }
        if group == 1 && !helped {
            break;
        }
        if group > 1 || !helped {
            group = if group == 1 { 0 } else { group.div_ceil(2) };
        }
    }
    let mut step = 0;
    while step < best.as_ref()?.0.steps.len() {
        let mut say = 0;
        while say < best.as_ref()?.0.steps[step].says.len() && Instant::now() < until {
            let mut candidate = best.as_ref()?.0.clone();
            if is_needed(&candidate.steps[step].says[say]) || candidate.steps[step].says.len() == 1
            {
                say += 1;
                continue;
            }
            candidate.steps[step].says.remove(say);
            if !consider(candidate, &mut best) {
                say += 1;
            }
        }
        step += 1;
    }
    best
}
