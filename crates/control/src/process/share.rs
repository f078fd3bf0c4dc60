//! How a node's budget of server connections is divided among processes.
//!
//! Owns: how many one of them may have, given what all have and need. No clock and no I/O. Nobody is given
//! what another one has; whoever has more than its share gives it up when another one lacks it, and not
//! before. A process alone has all.

/// What one process has and needs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Claim {
    pub(super) held: u32,
    pub(super) needed: u32,
}

/// All other processes.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Others {
    /// Those that are heard of.
    pub(super) live: Vec<Claim>,
    /// What is held by those that may be gone.
    pub(super) lost: u32,
}

/// What a process gets without asking, so that its first clients wait for nobody. 8, or less of a small
/// budget.
const READY_MAX: u32 = 8;

/// How many of `budget` a process may have that has and needs what `own` says. Fewer than it has: the rest
/// is to be given up.
pub(super) fn part_of(budget: u32, own: Claim, others: &Others) -> u32 {
    let held: u32 = others.live.iter().map(|claim| claim.held).sum();
    // Nobody has these, or it has them itself.
    let open = budget.saturating_sub(held).saturating_sub(others.lost);
    let count = u32::try_from(others.live.len() + 1).unwrap_or(u32::MAX);
    let ready = (budget / (2 * count)).clamp(1, READY_MAX);
    let needs = |claim: &Claim| claim.needed.max(ready);
    let all: Vec<u32> = std::iter::once(&own)
        .chain(&others.live)
        .map(needs)
        .collect();
    let fair = Fair::of(budget.saturating_sub(others.lost), &all);
    let lacking: u32 = others
        .live
        .iter()
        .map(|claim| fair.least(needs(claim)).saturating_sub(claim.held))
        .sum();
    let fair_for_own = fair.part(needs(&own));
    let wanted = if lacking == 0 {
        fair_for_own.max(needs(&own)).max(own.held)
    } else if own.held <= fair_for_own || lacking <= open.saturating_sub(own.held) {
        own.held.max(fair.least(needs(&own)))
    } else {
        fair_for_own
    };
    wanted.min(open)
}

/// A budget divided so that nobody who needs less than others has to go without for them.
struct Fair {
    /// Nobody gets more than this before all have what they need.
    level: u32,
    /// What all get beyond their needs.
    spare: u32,
}

impl Fair {
    fn of(budget: u32, needs: &[u32]) -> Self {
        let mut needs = needs.to_vec();
        needs.sort_unstable();
        let mut left = budget;
        let all = u32::try_from(needs.len()).unwrap_or(u32::MAX);
        let mut count = all;
        for need in needs {
            if need > left / count {
                return Self {
                    level: left / count,
                    spare: 0,
                };
            }
            left -= need;
            count -= 1;
        }
        Self {
            level: u32::MAX,
            spare: left / all.max(1),
        }
    }

    /// What is due to one that needs so many.
    fn least(&self, needed: u32) -> u32 {
        needed.min(self.level)
    }

    fn part(&self, needed: u32) -> u32 {
        self.least(needed).saturating_add(self.spare)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn part(budget: u32, own: (u32, u32), others: &[(u32, u32)]) -> u32 {
        let claim = |(held, needed)| Claim { held, needed };
        let others = Others {
            live: others.iter().copied().map(claim).collect(),
            lost: 0,
        };
        part_of(budget, claim(own), &others)
    }

    /// Columns: what it has and needs, what others have and need, what it may have of 100.
    #[test]
    fn who_gets_how_much() {
        for (own, others, want) in [
            // Alone it has all at once.
            ((0, 0), &[][..], 100),
            // The second one: there is nothing left, and the first one gives, of what it does not need.
            ((0, 0), &[(100, 10)], 0),
            ((100, 10), &[(0, 0)], 51),
            ((0, 0), &[(51, 10)], 49),
            // Both want more than there is: half each.
            ((80, 90), &[(20, 90)], 50),
            ((20, 90), &[(80, 90)], 20),
            ((20, 90), &[(50, 90)], 50),
            // One needs less than half: the other may have the rest.
            ((50, 90), &[(50, 10)], 50),
            ((50, 10), &[(50, 90)], 10),
            ((50, 90), &[(10, 10)], 90),
            // Nobody lacks anything: nobody gives.
            ((90, 20), &[(10, 10)], 90),
        ] {
            let found = part(100, own, others);
            assert_eq!(found, want, "{own:?} {others:?}");
        }
        let lost = Others {
            live: Vec::new(),
            lost: 40,
        };
        let own = Claim {
            held: 0,
            needed: 70,
        };
        assert_eq!(
            part_of(100, own, &lost),
            60,
            "what may be in use is not given"
        );
    }

    proptest! {
        /// Whoever comes and in whatever order they ask: never more than there is, and in the end all
        /// have what is due to them.
        #[test]
        fn the_sum_is_bounded_and_all_get_what_is_due(
            budget in 4..200_u32,
            needs in proptest::collection::vec(0..150_u32, 1..5),
            order in proptest::collection::vec(0..5_usize, 60),
        ) {
            let mut held = vec![0_u32; needs.len()];
            let ask = |held: &mut Vec<u32>, number: usize| {
                let claim = |n: usize| Claim { held: held[n], needed: needs[n] };
                let others = (0..needs.len()).filter(|n| *n != number).map(claim).collect();
                let others = Others { live: others, lost: 0 };
                held[number] = part_of(budget, claim(number), &others);
                held.iter().sum::<u32>()
            };
            for number in order {
                prop_assert!(ask(&mut held, number % needs.len()) <= budget);
            }
            // Twice round: those with too much give, the others take.
            for number in (0..needs.len()).chain(0..needs.len()) {
                prop_assert!(ask(&mut held, number) <= budget);
            }
            let all = u32::try_from(needs.len()).unwrap();
            for (held, needed) in held.iter().zip(&needs) {
                prop_assert!(*held >= (*needed).min(budget / all), "{held} of {needed}");
            }
            // And then it rests.
            let before = held.clone();
            for number in 0..needs.len() {
                ask(&mut held, number);
            }
            prop_assert_eq!(before, held);
        }
    }
}
