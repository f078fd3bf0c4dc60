//! The queue against a model of PostgreSQL's main loop, under random interleavings.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

mod ours;

/// PostgreSQL's main loop, as far as the kinds of its messages go. What a statement does (fails,
/// returns rows, copies) is drawn from `dice`.
struct Server {
    mode: Mode,
    dice: VecDeque<u8>,
    out: VecDeque<u8>,
    /// Protocol synchronisation was lost; it hung up.
    gone: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Mode {
    Normal,
    SkipsToSync,
    CopyIn { simple: bool },
}

impl Server {
    fn roll(&mut self, sides: u8) -> u8 {
        let roll = self.dice.pop_front().unwrap_or(0);
        self.dice.push_back(roll.wrapping_mul(31).wrapping_add(7));
        roll % sides
    }

    fn say(&mut self, kinds: &[u8]) {
        // Anything asynchronous may stand between two messages.
        for &kind in kinds {
            match self.roll(12) {
                0 => self.out.push_back(b'N'),
                1 => self.out.push_back(b'S'),
                2 => self.out.push_back(b'A'),
                _ => {}
            }
            self.out.push_back(kind);
        }
    }

    fn read(&mut self, kind: u8, statement: bool) {
        if let Mode::CopyIn { simple } = self.mode {
            return self.read_copy(kind, simple);
        }
        if self.mode == Mode::SkipsToSync && kind != b'S' {
            return;
        }
        let fails = self.roll(8) == 0;
        match kind {
            b'Q' => self.query(),
            b'F' if fails => self.say(b"EZ"),
            b'F' => self.say(b"VZ"),
            b'S' => {
                self.mode = Mode::Normal;
                // A deferred constraint may fail here.
                self.say(if fails { b"EZ" } else { b"Z" });
            }
            b'P' | b'B' | b'D' | b'E' | b'C' if fails => {
                self.say(b"E");
                self.mode = Mode::SkipsToSync;
            }
            b'P' => self.say(b"1"),
            b'B' => self.say(b"2"),
            b'C' => self.say(b"3"),
            b'D' => {
                if statement {
                    self.say(b"t");
                }
                let rows = self.roll(2) == 0;
                self.say(if rows { b"T" } else { b"n" });
            }
            b'E' => match self.roll(6) {
                0 => self.say(b"I"),
                1 => self.say(b"DDs"),
                2 => {
                    self.say(b"G");
                    self.mode = Mode::CopyIn { simple: false };
                }
                3 => self.say(b"HddcC"),
                4 => {
                    self.say(b"HdE");
                    self.mode = Mode::SkipsToSync;
                }
                _ => self.say(b"DDC"),
            },
            b'd' | b'c' | b'f' | b'H' => {}
            other => panic!("{}", char::from(other)),
        }
    }

    fn query(&mut self) {
        // A few statements in one query string, then an end.
        for _ in 0..4 {
            match self.roll(8) {
                0 => return self.say(b"IZ"),
                1 => return self.say(b"EZ"),
                2 => {
                    self.say(b"G");
                    self.mode = Mode::CopyIn { simple: true };
                    return;
                }
                3 => self.say(b"HddcC"),
                4 => return self.say(b"HdEZ"),
                5 => self.say(b"TDDC"),
                _ => break,
            }
        }
        self.say(b"CZ");
    }

    fn read_copy(&mut self, kind: u8, simple: bool) {
        let fails = self.roll(10) == 0;
        match kind {
            b'd' | b'H' | b'S' if !fails => {}
            b'c' if !fails => {
                self.say(b"C");
                self.mode = Mode::Normal;
                if simple {
                    self.query();
                }
            }
            // Its own failure can come before it reads `kind`.
            b'd' | b'H' | b'S' | b'c' | b'f' => {
                self.say(if simple { b"EZ" } else { b"E" });
                self.mode = if simple {
                    Mode::Normal
                } else {
                    Mode::SkipsToSync
                };
                if fails {
                    self.read(kind, false);
                }
            }
            _ => {
                self.say(b"E");
                self.gone = true;
            }
        }
    }
}

fn request() -> impl Strategy<Value = (u8, bool)> {
    let kind = prop_oneof![
        4 => Just(b'Q'), 4 => Just(b'P'), 4 => Just(b'B'), 4 => Just(b'D'), 5 => Just(b'E'),
        2 => Just(b'C'), 6 => Just(b'S'), 1 => Just(b'F'), 1 => Just(b'H'), 3 => Just(b'd'),
        2 => Just(b'c'), 1 => Just(b'f'),
    ];
    (kind, any::<bool>())
}

/// Runs a client, a queue and a server against each other. `turns` decides who goes next.
/// `tamper` may drop or double one message of the server. Returns the queue and what is true.
fn run(
    requests: &[(u8, bool)],
    turns: &[u8],
    dice: &[u8],
    mut tamper: impl FnMut(u8) -> usize,
) -> (Result<Queue, Mismatch>, Server) {
    let mut queue = Queue::default();
    let mut pipe = VecDeque::new();
    let mut requests = requests.iter();
    let mut server = Server {
        mode: Mode::Normal,
        dice: dice.iter().copied().collect(),
        out: VecDeque::new(),
        gone: false,
    };
    let mut turns = turns.iter().cycle();
    let mut idle = 0;
    while idle < 64 {
        idle += 1;
        match turns.next().unwrap() % 3 {
            0 => {
                if let Some(&(kind, statement)) = requests.next() {
                    let first = Some(if statement { b'S' } else { b'P' });
                    if let FromClient::Request(request) = FromClient::of(kind, first) {
                        queue.sent(request);
                    }
                    pipe.push_back((kind, statement));
                    idle = 0;
                }
            }
            1 => {
                if !server.gone
                    && let Some((kind, statement)) = pipe.pop_front()
                {
                    server.read(kind, statement);
                    idle = 0;
                }
            }
            _ => {
                if let Some(kind) = server.out.pop_front() {
                    for _ in 0..tamper(kind) {
                        if let Err(mismatch) = queue.received(kind) {
                            return (Err(mismatch), server);
                        }
                    }
                    idle = 0;
                }
            }
        }
    }
    (Ok(queue), server)
}

fn turns() -> impl Strategy<Value = Vec<u8>> {
    // Each of the three acts in every cycle, in random order and number.
    (
        prop::collection::vec(0..3u8, 0..40),
        Just([0u8, 1, 2]).prop_shuffle(),
    )
        .prop_map(|(mut turns, all)| {
            turns.extend(all);
            turns
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// Whatever the order of events, an honest server is never suspected, and the queue knows
    /// exactly when it is idle, unless it says that it cannot know.
    #[test]
    fn agrees_with_the_server(
        requests in prop::collection::vec(request(), 0..40),
        turns in turns(),
        dice in prop::collection::vec(any::<u8>(), 1..60),
    ) {
        let (queue, server) = run(&requests, &turns, &dice, |_| 1);
        match queue {
            Ok(queue) if queue.is_certain() && !server.gone => {
                prop_assert_eq!(queue.is_empty(), server.mode == Mode::Normal, "{:?}", queue);
                prop_assert_eq!(queue.in_copy(), matches!(server.mode, Mode::CopyIn { .. }));
            }
            Ok(_) => {}
            // Only where the number of ReadyForQuery cannot be known.
            Err(mismatch) => prop_assert!(
                requests.iter().any(|r| matches!(r.0, b'd' | b'c' | b'f' | b'S')) && doubtful(&requests, &turns, &dice),
                "{}", mismatch
            ),
        }
    }

    /// One ReadyForQuery too many never ends in a connection that looks idle. One too few neither,
    /// unless an error comes later: how many requests the server skips after an error cannot be
    /// seen from its answers, so the requests that are skipped may then be counted as one more
    /// than they were (`F Q E Q P S` with the first answer's end lost reads like an honest
    /// conversation in which `E`, not the last `P`, failed).
    #[test]
    fn a_lost_or_doubled_ready_is_noticed(
        requests in prop::collection::vec(request(), 1..40),
        turns in turns(),
        dice in prop::collection::vec(any::<u8>(), 1..60),
        nth in 0..6usize,
        times in prop_oneof![Just(0usize), Just(2usize)],
    ) {
        let mut seen = 0;
        let mut failed_later = false;
        let (queue, server) = run(&requests, &turns, &dice, |kind| {
            let hit = kind == b'Z' && seen == nth;
            failed_later |= kind == b'E' && seen > nth;
            seen += usize::from(kind == b'Z');
            if hit { times } else { 1 }
        });
        let cannot_be_known = times == 0 && failed_later;
        if seen > nth
            && !cannot_be_known
            && let Ok(queue) = queue
        {
            prop_assert!(
                !queue.is_empty() || !queue.is_certain() || server.mode != Mode::Normal || server.gone,
                "{:?}", queue
            );
        }
    }
}

/// Whether the same run, up to its mismatch, passed through a COPY that failed before a Sync.
fn doubtful(requests: &[(u8, bool)], turns: &[u8], dice: &[u8]) -> bool {
    let mut queue = Queue::default();
    let mut doubt = false;
    // The same events again, watching the queue instead of the outcome.
    let mut requests = requests.iter();
    let mut pipe = VecDeque::new();
    let mut server = Server {
        mode: Mode::Normal,
        dice: dice.iter().copied().collect(),
        out: VecDeque::new(),
        gone: false,
    };
    for turn in turns.iter().cycle().take(2_000) {
        match turn % 3 {
            0 => {
                if let Some(&(kind, statement)) = requests.next() {
                    let first = Some(if statement { b'S' } else { b'P' });
                    if let FromClient::Request(request) = FromClient::of(kind, first) {
                        queue.sent(request);
                    }
                    pipe.push_back((kind, statement));
                }
            }
            1 => {
                if let (false, Some((kind, statement))) = (server.gone, pipe.pop_front()) {
                    server.read(kind, statement);
                }
            }
            _ => {
                if let Some(kind) = server.out.pop_front()
                    && queue.received(kind).is_err()
                {
                    return doubt || !queue.is_certain();
                }
            }
        }
        doubt |= !queue.is_certain();
    }
    doubt
}

fn through(events: &str) -> Result<Queue, Mismatch> {
    let mut queue = Queue::default();
    for word in events.split_whitespace() {
        let (from, kinds) = word.split_once(':').unwrap();
        for kind in kinds.bytes() {
            if from == "c" {
                if let FromClient::Request(request) = FromClient::of(kind, Some(b'S')) {
                    queue.sent(request);
                }
            } else {
                queue.received(kind)?;
            }
        }
    }
    Ok(queue)
}

/// Cases that broke other proxies.
#[test]
fn known_conversations() {
    for (events, idle) in [
        ("c:Q s:TDDCZ", true),
        ("c:PBDES s:12tTDCZ", true),
        ("c:PBDES s:1E", false),
        ("c:PBDES s:1EZ", true),
        // An error inside a pipeline skips to its Sync, not to the next one.
        ("c:PBESPBES s:1EZ", false),
        ("c:PBESPBES s:1EZ12CZ", true),
        // A simple query that is skipped is not answered.
        ("c:PQS s:EZ", true),
        // Sync-less error in a mixture of simple and extended.
        ("c:P s:E", false),
        ("c:P s:E c:BDQ", false),
        ("c:P s:E c:BDQ c:S s:Z", true),
        // Flush without Sync.
        ("c:PDH s:1tT", true),
        // COPY as libpq does it over the extended protocol: the first Sync is swallowed.
        ("c:PBES s:12G c:ddc c:S s:CZ", true),
        // COPY in one flight.
        ("c:PBEdcS s:12GCZ", true),
        // Two COPYs in one simple query, an early end of data for the second.
        ("c:Qdc s:G s:C s:G c:dc s:CZ", true),
        ("c:Qdcdc s:GCGCZ", true),
        // Data that comes after the COPY has failed, and an end of data nobody waits for.
        ("c:Q s:G c:d s:EZ c:ddc", true),
        ("c:Qc s:CZ", true),
        ("c:c", true),
        ("c:Q s:HddcCZ", true),
        ("c:F s:VZ", true),
        ("s:NAS", true),
    ] {
        let queue = through(events).unwrap_or_else(|mismatch| panic!("{events}: {mismatch}"));
        assert_eq!(queue.is_empty(), idle, "{events}");
        assert!(queue.is_certain(), "{events}");
    }
}

#[test]
fn what_nobody_asked_for_is_a_mismatch() {
    for events in [
        "s:Z",
        "s:C",
        "s:D",
        "c:Q s:1",
        "c:Q s:CZZ",
        "c:P s:2",
        "c:PS s:Z",
        "c:S s:C",
        "c:Q s:d",
        "c:E s:T",
        "c:Q s:R",
        "c:Q s:K",
        "c:Q s:W",
        "c:Q s:\u{7f}",
        // The end of a COPY that the client has not ended.
        "c:Q s:GC",
    ] {
        assert!(through(events).is_err(), "{events}");
    }
}

#[test]
fn a_copy_that_fails_before_a_sync_leaves_doubt() {
    let queue = through("c:PBES s:12G c:d s:E").unwrap();
    assert!(!queue.is_certain());
    // Both answers of the server are accepted, and neither makes it certain again.
    for events in ["c:PBES s:12G c:dcS s:EZ", "c:PBES s:12G c:dcS s:EZZ"] {
        let queue = through(events).unwrap();
        assert!(queue.is_empty() && !queue.is_certain(), "{events}");
    }
    assert!(through("c:PBES s:12G c:dcS s:EZZZ").is_err());
}

#[test]
fn memory_is_one_byte_per_request_and_is_given_back() {
    let mut queue = Queue::default();
    for _ in 0..REQUESTS_MAX {
        assert!(!queue.is_full());
        queue.sent(Request::Sync);
    }
    assert!(queue.is_full());
    assert_eq!(queue.ring.len(), REQUESTS_MAX);
    for _ in 0..REQUESTS_MAX {
        queue.received(b'Z').unwrap();
    }
    assert!(queue.is_empty());
    assert_eq!(queue.ring.len(), RING_START);
}
