//! Which of the tenants that wait for a server connection of a node is next.
//!
//! Owns: what each tenant holds, its weight and its minimum, and the order. Does not own: the number of
//! connections there are, or handing one over (`budget`). No clock and no I/O: the same calls give the
//! same order.
//!
//! Whoever holds less for its weight comes first; among those who hold as much, turns go round by weight
//! (start-time fair queuing). So a tenant with long transactions cannot hold all connections while
//! others wait, and whoever waits is reached: the number of turns before its own is bounded by the
//! number of tenants and their weights.

use std::collections::{BTreeSet, HashMap};

use model::{TenantId, limits::minimums_max};

/// What one turn costs a tenant of weight 1. Divisible by most weights there are.
const TURN: u64 = 720_720;

/// What is due to a tenant.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Share {
    /// How much more it gets than a tenant of weight 1, when not all get what they want.
    pub(crate) weight: u32,
    /// So many are not taken from it for others, and it comes first as long as it has fewer.
    pub(crate) min: u32,
}

impl Default for Share {
    fn default() -> Self {
        Self { weight: 1, min: 0 }
    }
}

/// Whether a tenant goes on with a server connection that one of its clients has finished with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Next {
    /// Yes, its turn goes on.
    Same,
    /// Yes, it is its turn again.
    Again,
    /// It is somebody else's turn.
    Other,
}

/// Tenants of one node that hold or want something.
#[derive(Debug, Default)]
pub(super) struct Round {
    tenants: HashMap<TenantId, Entry>,
    line: BTreeSet<(Rank, TenantId)>,
    /// Where the turns are. All begin at 0 when the line was empty.
    clock: u64,
    arrivals: u64,
    /// Held within minimums.
    kept: u32,
}

#[derive(Debug, Default)]
struct Entry {
    share: Share,
    held: u32,
    /// When its next turn begins.
    due: u64,
    waits: Option<Rank>,
}

/// Less is sooner.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Rank {
    level: u32,
    due: u64,
    arrival: u64,
}

impl Entry {
    /// Where it stands with `held` connections.
    fn level(&self, held: u32, kept: u32, max: u32) -> u32 {
        if held < self.share.min && kept < minimums_max(max) {
            0
        } else {
            1 + held / self.share.weight.max(1)
        }
    }
}

impl Round {
    /// Tenants that wait.
    pub(super) fn waiting(&self) -> usize {
        self.line.len()
    }

    /// Whether minimums hold now: not while they would leave too little for others.
    pub(super) fn keeps_minimums(&self, max: u32) -> bool {
        self.kept <= minimums_max(max)
    }

    /// Who waits, in order.
    pub(super) fn line(&self) -> impl Iterator<Item = &TenantId> {
        self.line.iter().map(|(_, tenant)| tenant)
    }

    /// A tenant begins to wait. It has one place, however often it comes.
    pub(super) fn enter(&mut self, tenant: &TenantId, share: Share, max: u32) {
        self.leave(tenant);
        self.arrivals += 1;
        let (clock, kept, arrival) = (self.clock, self.kept, self.arrivals);
        let entry = self.entry(tenant, share);
        let rank = Rank {
            level: entry.level(entry.held, kept, max),
            due: entry.due.max(clock),
            arrival,
        };
        entry.waits = Some(rank);
        self.line.insert((rank, tenant.clone()));
    }

    /// A tenant waits no more.
    pub(super) fn leave(&mut self, tenant: &TenantId) {
        if let Some(entry) = self.tenants.get_mut(tenant)
            && let Some(rank) = entry.waits.take()
        {
            self.line.remove(&(rank, tenant.clone()));
            self.forget();
        }
    }

    /// Takes the first one out of the line.
    pub(super) fn next(&mut self) -> Option<TenantId> {
        let (rank, tenant) = self.line.pop_first()?;
        self.clock = self.clock.max(rank.due);
        if let Some(entry) = self.tenants.get_mut(&tenant) {
            entry.waits = None;
        }
        Some(tenant)
    }

    /// A tenant has one more.
    pub(super) fn took(&mut self, tenant: &TenantId, share: Share, max: u32) {
        let entry = self.entry(tenant, share);
        entry.held += 1;
        let is_kept = entry.held <= entry.share.min;
        self.kept += u32::from(is_kept);
        self.charge(tenant);
        self.rank_again(tenant, max);
        self.forget();
    }

    /// A tenant has one less.
    pub(super) fn returned(&mut self, tenant: &TenantId, max: u32) {
        if let Some(entry) = self.tenants.get_mut(tenant) {
            self.kept -= u32::from(entry.held <= entry.share.min);
            entry.held -= 1;
            self.rank_again(tenant, max);
            self.forget();
        }
    }

    /// Whether `tenant` may go on with one that it holds. `is_over`: its turn has lasted long enough;
    /// `has_next`: a client of its own waits for it.
    pub(super) fn next_with(
        &mut self,
        tenant: &TenantId,
        is_over: bool,
        has_next: bool,
        max: u32,
    ) -> Next {
        let other = self.line.iter().find(|(_, other)| other != tenant);
        let (Some((other, _)), Some(own)) = (other, self.tenants.get(tenant)) else {
            return Next::Same;
        };
        if own.held <= own.share.min && self.keeps_minimums(max) {
            return Next::Same;
        }
        if !has_next {
            return Next::Other;
        }
        let level = own.level(own.held.saturating_sub(1), self.kept, max);
        let due = own.due.max(self.clock);
        match level.cmp(&other.level) {
            std::cmp::Ordering::Less => Next::Same,
            std::cmp::Ordering::Greater => Next::Other,
            std::cmp::Ordering::Equal if !is_over => Next::Same,
            std::cmp::Ordering::Equal if due < other.due => {
                self.charge(tenant);
                self.rank_again(tenant, max);
                Next::Again
            }
            std::cmp::Ordering::Equal => Next::Other,
        }
    }

    fn entry(&mut self, tenant: &TenantId, share: Share) -> &mut Entry {
        let entry = self.tenants.entry(tenant.clone()).or_default();
        if entry.share != share {
            let within = |share: Share| share.min.min(entry.held);
            self.kept = self.kept - within(entry.share) + within(share);
            entry.share = share;
        }
        entry
    }

    /// Turns cost something only while somebody waits for one.
    fn charge(&mut self, tenant: &TenantId) {
        if self.line.is_empty() {
            return;
        }
        if let Some(entry) = self.tenants.get_mut(tenant) {
            let begins = entry.due.max(self.clock);
            self.clock = begins;
            entry.due = begins + TURN / u64::from(entry.share.weight.max(1));
        }
    }

    fn rank_again(&mut self, tenant: &TenantId, max: u32) {
        let kept = self.kept;
        if let Some(entry) = self.tenants.get_mut(tenant)
            && let Some(rank) = entry.waits
        {
            let again = Rank {
                level: entry.level(entry.held, kept, max),
                due: rank.due.max(entry.due),
                ..rank
            };
            if again != rank {
                entry.waits = Some(again);
                self.line.remove(&(rank, tenant.clone()));
                self.line.insert((again, tenant.clone()));
            }
        }
    }

    /// When nobody waits any more, all are equal again, and only who holds something is known.
    fn forget(&mut self) {
        if self.line.is_empty() && (self.clock > 0 || self.tenants.len() > FORGET_ABOVE) {
            self.clock = 0;
            self.tenants.retain(|_, entry| {
                entry.due = 0;
                entry.held > 0
            });
        }
    }
}

/// Tenants that hold nothing are forgotten above so many known ones, to look through all of them seldom.
const FORGET_ABOVE: usize = 64;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tenant(number: usize) -> TenantId {
        format!("t{number:011}").parse().unwrap()
    }

    /// Tenants whose clients always want more, on a node with `max` connections. The turns, in order.
    struct Busy {
        round: Round,
        shares: Vec<Share>,
        max: u32,
        held: Vec<u32>,
    }

    impl Busy {
        fn new(shares: &[(u32, u32)], max: u32) -> Self {
            let shares: Vec<_> = shares
                .iter()
                .map(|(weight, min)| Share {
                    weight: *weight,
                    min: *min,
                })
                .collect();
            let mut busy = Self {
                round: Round::default(),
                held: vec![0; shares.len()],
                shares,
                max,
            };
            for number in 0..busy.shares.len() {
                busy.round.enter(&tenant(number), busy.shares[number], max);
            }
            while busy.held.iter().sum::<u32>() < max {
                busy.serve();
            }
            busy
        }

        fn serve(&mut self) -> usize {
            let next = self.round.next().unwrap();
            let number: usize = next.as_str()[1..].parse().unwrap();
            self.round.took(&next, self.shares[number], self.max);
            self.held[number] += 1;
            self.round.enter(&next, self.shares[number], self.max);
            number
        }

        /// A turn of this tenant is over. Who has the connection then.
        fn turn(&mut self, number: usize) -> usize {
            match self.round.next_with(&tenant(number), true, true, self.max) {
                Next::Same | Next::Again => number,
                Next::Other => {
                    self.held[number] -= 1;
                    self.round.returned(&tenant(number), self.max);
                    self.serve()
                }
            }
        }
    }

    #[test]
    fn one_connection_goes_round_by_weight() {
        for (weights, want) in [
            (&[(1, 0), (1, 0), (1, 0)][..], "012012012012"),
            (&[(3, 0), (1, 0)], "010010001000"),
            (&[(2, 0), (1, 0), (1, 0)], "012012001200"),
        ] {
            let mut busy = Busy::new(weights, 1);
            let mut has = busy.held.iter().position(|held| *held == 1).unwrap();
            let mut order = String::new();
            for _ in 0..12 {
                order.push_str(&has.to_string());
                has = busy.turn(has);
            }
            assert_eq!(order, want);
        }
    }

    #[test]
    fn connections_are_divided_by_weight() {
        for (weights, max, want) in [
            (&[(1, 0), (1, 0)][..], 10, vec![5, 5]),
            (&[(3, 0), (1, 0)], 8, vec![6, 2]),
            (&[(1, 0), (1, 0), (2, 0)], 8, vec![2, 2, 4]),
            // Minimums come first, and the rest is divided among those who have less for their weight.
            (&[(1, 6), (1, 0), (1, 0)], 10, vec![6, 2, 2]),
            // No minimum takes all: a quarter is left.
            (&[(1, 100), (1, 0)], 8, vec![6, 2]),
            (&[(1, 100), (1, 0)], 1, vec![1, 0]),
        ] {
            let busy = Busy::new(weights, max);
            assert_eq!(busy.held, want);
        }
    }

    /// Whoever came first with long transactions gives way as they end, until all have their share.
    #[test]
    fn who_holds_all_gives_way_one_by_one() {
        let mut round = Round::default();
        let (a, b, share) = (tenant(0), tenant(1), Share::default());
        for _ in 0..6 {
            round.took(&a, share, 6);
        }
        round.enter(&a, share, 6);
        for _ in 0..3 {
            round.enter(&b, share, 6);
            // Also in the middle of a turn: the other has less.
            assert_eq!(round.next_with(&a, false, true, 6), Next::Other);
            round.returned(&a, 6);
            assert_eq!(round.next(), Some(b.clone()));
            round.took(&b, share, 6);
        }
        round.enter(&b, share, 6);
        assert_eq!(round.next_with(&a, false, true, 6), Next::Same);
        // What it does not need itself goes to others at once.
        assert_eq!(round.next_with(&a, false, false, 6), Next::Other);
    }

    #[test]
    fn a_minimum_is_kept_while_others_wait() {
        let share = Share { weight: 1, min: 2 };
        let (a, b) = (tenant(0), tenant(1));
        let mut round = Round::default();
        for _ in 0..3 {
            round.took(&a, share, 4);
        }
        round.enter(&b, Share::default(), 4);
        assert_eq!(round.next_with(&a, true, false, 4), Next::Other);
        round.returned(&a, 4);
        assert_eq!(round.next_with(&a, true, false, 4), Next::Same);
        assert!(round.keeps_minimums(4));
        // With so little, minimums would leave nothing to others.
        assert!(!round.keeps_minimums(2));
        assert_eq!(round.next_with(&a, true, false, 2), Next::Other);
        // A minimum that is changed holds for what is there.
        round.enter(&a, Share::default(), 4);
        assert_eq!(round.kept, 0);
    }

    #[test]
    fn when_nobody_waits_all_begin_anew() {
        let (a, b, share) = (tenant(0), tenant(1), Share::default());
        let mut round = Round::default();
        round.took(&a, share, 1);
        round.enter(&b, share, 1);
        assert_eq!(round.next_with(&a, false, true, 1), Next::Same);
        assert_eq!(round.next_with(&a, true, true, 1), Next::Other);
        round.leave(&b);
        assert_eq!((round.clock, round.waiting()), (0, 0));
        round.returned(&a, 1);
        for number in 2..200 {
            round.took(&tenant(number), share, 1);
            round.returned(&tenant(number), 1);
        }
        assert!(round.tenants.len() <= FORGET_ABOVE + 1);
    }

    proptest! {
        /// Whatever the weights and minimums: nobody is passed over for ever, and shares of turns follow
        /// the weights.
        #[test]
        fn nobody_starves(
            shares in proptest::collection::vec((1..=5_u32, 0..=3_u32), 2..8),
            max in 1..12_u32,
            seed in proptest::collection::vec(0..1000_usize, 600),
        ) {
            let mut busy = Busy::new(&shares, max);
            let tenants = shares.len();
            let mut last = vec![0_usize; tenants];
            let weights: u32 = shares.iter().map(|(weight, _)| weight).sum();
            // A full round, and as much again for what others still hold.
            let bound = 4 * (weights as usize + max as usize) * max as usize;
            for (at, pick) in seed.iter().enumerate() {
                prop_assert!(busy.held.iter().sum::<u32>() <= max);
                // One that holds something ends a turn, any of them but fairly often each.
                let holders: Vec<usize> = (0..tenants).filter(|n| busy.held[*n] > 0).collect();
                let has = busy.turn(holders[(pick + at) % holders.len()]);
                last[has] = at;
                for (held, last) in busy.held.iter().zip(&mut last) {
                    if *held > 0 { *last = at; }
                    prop_assert!(at - *last <= bound, "{held} after {}", at - *last);
                }
            }
        }
    }
}
