//! Requests of ours among a client's: what the client sees is what its own requests would bring.

use super::*;

/// Sent over one server connection, by a client or by us.
#[derive(Clone, Copy, Debug)]
enum Sent {
    Client(u8, bool),
    /// A simple query, Parse, Close or Sync of ours.
    Ours(u8),
    /// A Parse or Close of the client that we answer. The model says so with this kind.
    Now(u8),
    /// A simple query of the client, and one of ours that is part of it.
    Both,
}

/// What the model says where an answer of ours belongs.
const HERE: u8 = b'#';

/// A message of the server and whether the client should get it.
type Said = (u8, bool);

fn sent() -> impl Strategy<Value = Sent> {
    prop_oneof![
        12 => request().prop_map(|(kind, statement)| Sent::Client(kind, statement)),
        2 => Just(Sent::Ours(b'Q')),
        2 => Just(Sent::Ours(b'P')),
        1 => Just(Sent::Ours(b'C')),
        1 => Just(Sent::Ours(b'S')),
        2 => Just(Sent::Now(b'P')),
        2 => Just(Sent::Now(b'C')),
        2 => Just(Sent::Both),
    ]
}

/// Which noted requests were done, failed or skipped, in their order.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Became {
    Done,
    Failed,
    Dropped,
}

struct Model {
    server: Server,
    said: VecDeque<Said>,
    /// Of every Parse of the client's and of ours, and of every answer of ours.
    became: Vec<Became>,
}

impl Model {
    /// Moves what the server said; `is_for_client` decides.
    fn take(&mut self, is_for_client: impl Fn(u8) -> bool) {
        for kind in self.server.out.drain(..) {
            let always = matches!(kind, b'A' | b'S');
            self.said.push_back((kind, always || is_for_client(kind)));
        }
    }

    fn read(&mut self, sent: Sent, turned: bool) {
        let copies = matches!(self.server.mode, Mode::CopyIn { .. });
        let skips = self.server.mode == Mode::SkipsToSync;
        match sent {
            Sent::Client(kind, statement) => {
                self.server.read(kind, statement);
                if kind == b'P' {
                    self.note(skips);
                }
                self.take(|kind| !turned || kind != b'Z');
            }
            // Nothing of ours is sent while the client copies.
            _ if copies => self.server.gone = true,
            Sent::Ours(kind) if skips && kind != b'S' => {
                if kind == b'P' {
                    self.note(true);
                }
            }
            Sent::Ours(b'Q') => {
                let fails = self.server.roll(4) == 0;
                self.server.say(if fails { b"EZ" } else { b"TDCZ" });
                self.take(|kind| turned && kind == b'Z');
            }
            Sent::Ours(b'S') => {
                self.server.mode = Mode::Normal;
                self.server.say(b"Z");
                self.take(|_| false);
            }
            Sent::Ours(kind) => {
                self.server.read(kind, false);
                if kind == b'P' {
                    self.note(false);
                }
                self.take(|kind| kind == b'E');
            }
            Sent::Now(_) if skips => self.became.push(Became::Dropped),
            Sent::Now(_) => {
                self.became.push(Became::Done);
                self.said.push_back((HERE, true));
            }
            Sent::Both => unreachable!("sent as two"),
        }
    }

    fn note(&mut self, skipped: bool) {
        let failed = self.server.mode == Mode::SkipsToSync;
        self.became.push(match (skipped, failed) {
            (true, _) => Became::Dropped,
            (false, true) => Became::Failed,
            (false, false) => Became::Done,
        });
    }
}

/// What the client got and what became of the notes: as it was, and as it should be.
struct Outcome {
    got: Vec<u8>,
    due: Vec<u8>,
    became: Vec<Became>,
    model: Model,
    queue: Queue,
    /// Statements of the client that the server was to look at, and those of them that are over.
    statements: (u32, u32),
}

fn run_with_ours(sent: &[Sent], turns: &[u8], dice: &[u8]) -> Option<Outcome> {
    let mut queue = Queue::default();
    let mut pipe: VecDeque<(Sent, bool)> = VecDeque::new();
    let mut model = Model {
        server: Server {
            mode: Mode::Normal,
            dice: dice.iter().copied().collect(),
            out: VecDeque::new(),
            gone: false,
        },
        said: VecDeque::new(),
        became: Vec::new(),
    };
    let (mut got, mut due, mut became) = (Vec::new(), Vec::new(), Vec::new());
    let mut statements = (0, 0);
    let mut sent = sent.iter();
    let mut turns = turns.iter().cycle();
    let mut idle = 0;
    while idle < 64 {
        idle += 1;
        match turns.next().unwrap() % 3 {
            0 => {
                let Some(&next) = sent.next() else { continue };
                idle = 0;
                let ours = Tags::OURS;
                let known = match next {
                    Sent::Client(kind, statement) => {
                        let first = Some(if statement { b'S' } else { b'P' });
                        let tags = if kind == b'P' {
                            Tags::NOTED
                        } else {
                            Tags::NONE
                        };
                        pipe.push_back((next, false));
                        match FromClient::of(kind, first) {
                            FromClient::Request(request) => queue.sent_as(request, tags),
                            _ => true,
                        }
                    }
                    Sent::Ours(kind) => {
                        let FromClient::Request(request) = FromClient::of(kind, None) else {
                            unreachable!()
                        };
                        let noted = if kind == b'P' {
                            Tags::NOTED
                        } else {
                            Tags::NONE
                        };
                        pipe.push_back((next, false));
                        queue.sent_as(request, ours.with(noted))
                    }
                    Sent::Now(kind) => {
                        pipe.push_back((next, false));
                        let now = match kind {
                            b'P' => Now::ParseComplete,
                            _ => Now::CloseComplete,
                        };
                        queue.answer(now, Tags::NOTED)
                    }
                    Sent::Both => {
                        pipe.push_back((Sent::Client(b'Q', false), true));
                        pipe.push_back((Sent::Ours(b'Q'), true));
                        statements.0 += u32::from(queue.sent_as(Request::Query, Tags::TURNED));
                        queue.sent_as(Request::Query, Tags::TURNED.with(ours))
                    }
                };
                if let Sent::Client(b'Q' | b'E' | b'F', _) = next {
                    statements.0 += u32::from(known);
                }
                // Sent after an error that was seen: nobody takes a note of it.
                if !known
                    && matches!(
                        next,
                        Sent::Client(b'P', _) | Sent::Ours(b'P') | Sent::Now(_)
                    )
                {
                    became.push(Became::Dropped);
                }
            }
            1 => {
                if !model.server.gone
                    && let Some((next, turned)) = pipe.pop_front()
                {
                    model.read(next, turned);
                    idle = 0;
                }
            }
            _ => {
                let Some((kind, is_for_client)) = model.said.pop_front() else {
                    continue;
                };
                idle = 0;
                if is_for_client {
                    due.push(kind);
                }
                while queue.take_now().is_some() {
                    got.push(HERE);
                }
                if kind != HERE {
                    // Whether an honest server is suspected is asked elsewhere.
                    let answer = queue.received(kind).ok()?;
                    if answer.is_for_client() {
                        got.push(kind);
                    }
                }
                statements.1 += queue.take_over();
                let notes = queue.take_notes();
                let all = [
                    (notes.done, Became::Done),
                    (notes.failed, Became::Failed),
                    (notes.dropped, Became::Dropped),
                ];
                for (count, what) in all {
                    became.extend((0..count).map(|_| what));
                }
            }
        }
    }
    while queue.take_now().is_some() {
        got.push(HERE);
    }
    let notes = queue.take_notes();
    became.extend((0..notes.done).map(|_| Became::Done));
    Some(Outcome {
        got,
        due,
        became,
        model,
        queue,
        statements,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    /// The client gets the answers to what it asked, each in its place, whatever of ours stands
    /// between; and the notes say what became of each request.
    #[test]
    fn the_client_never_sees_what_is_ours(
        sent in prop::collection::vec(sent(), 0..30),
        turns in turns(),
        dice in prop::collection::vec(any::<u8>(), 1..60),
    ) {
        if let Some(outcome) = run_with_ours(&sent, &turns, &dice)
            && outcome.queue.is_certain()
            && !outcome.model.server.gone
        {
            let text = |kinds: &[u8]| String::from_utf8_lossy(kinds).into_owned();
            prop_assert_eq!(text(&outcome.got), text(&outcome.due));
            // Those that were dropped unseen are noted earlier than by the model.
            let count = |list: &[Became], what| list.iter().filter(|own| **own == what).count();
            for what in [Became::Done, Became::Failed, Became::Dropped] {
                prop_assert_eq!(
                    count(&outcome.became, what), count(&outcome.model.became, what),
                    "{:?} {:?} {:?}", what, outcome.became, outcome.model.became
                );
            }
            let (begun, over) = outcome.statements;
            prop_assert!(over <= begun && (over == begun || !outcome.queue.has_none()));
            prop_assert_eq!(
                outcome.queue.is_empty(),
                outcome.model.server.mode == Mode::Normal
            );
        }
    }
}

#[test]
fn statements_are_over_with_their_answer_or_the_error_before_them() {
    let mut queue = Queue::default();
    for request in "qpbe-pbe-pbes".bytes() {
        match request {
            b'q' => queue.sent_as(Request::Query, Tags::OURS),
            b'p' => queue.sent_as(Request::Parse, Tags::NONE),
            b'b' => queue.sent_as(Request::Bind, Tags::NONE),
            b'e' => queue.sent_as(Request::Execute, Tags::NONE),
            b's' => queue.sent_as(Request::Sync, Tags::NONE),
            _ => true,
        };
    }
    let mut over = Vec::new();
    for kind in "CZ12DCSEZ".bytes() {
        let answer = queue.received(kind).unwrap();
        over.push((kind, answer.is_to_statement(), queue.take_over()));
    }
    let expected = [
        (b'D', true, 0),
        (b'C', true, 1),
        (b'S', false, 0),
        (b'E', false, 2),
    ];
    assert_eq!(over[4..8], expected);
    queue.sent(Request::Query);
    queue.sent(Request::Call);
    let over = "IECSZEZ".bytes().map(|kind| {
        queue.received(kind).unwrap();
        queue.take_over()
    });
    assert_eq!(over.collect::<Vec<_>>(), [0, 0, 0, 0, 1, 0, 1]);
}

#[test]
fn what_stands_for_one_another() {
    let mut queue = Queue::default();
    // Settings in the flight of a statement.
    queue.sent_as(Request::Query, Tags::OURS);
    queue.sent(Request::Query);
    let mut seen = String::new();
    for kind in "CSZTDCZ".bytes() {
        let answer = queue.received(kind).unwrap();
        if answer.is_for_client() {
            seen.push(char::from(kind));
        }
    }
    assert_eq!(seen, "STDCZ");
    assert!(queue.is_empty());

    // A Parse of ours that fails is the answer to the Bind behind it.
    queue.sent_as(Request::Parse, Tags::OURS.with(Tags::NOTED));
    queue.sent(Request::Bind);
    queue.sent(Request::Execute);
    queue.sent(Request::Sync);
    assert!(queue.received(b'E').unwrap().is_for_client());
    assert_eq!(
        queue.take_notes(),
        Notes {
            failed: 1,
            ..Notes::default()
        }
    );
    assert!(queue.received(b'Z').unwrap().is_for_client());

    // An answer of ours waits for what was asked before it, and for nothing else.
    queue.sent(Request::Parse);
    queue.answer(Now::ParseComplete, Tags::NONE);
    assert_eq!(queue.take_now(), None);
    assert!(!queue.waits_for_nobody());
    queue.received(b'1').unwrap();
    assert!(queue.waits_for_nobody() && !queue.is_empty());
    assert_eq!(queue.take_now(), Some(Now::ParseComplete));
    assert!(queue.is_empty());
    // What nobody answers is no mismatch's excuse.
    queue.answer(Now::CloseComplete, Tags::NONE);
    assert!(queue.received(b'3').is_err());
}
