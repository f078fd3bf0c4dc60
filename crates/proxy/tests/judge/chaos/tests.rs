//! What chaos takes for right, and what it finds: a judge is judged, without a proxy.

use std::{
    io::{Cursor, Read, Write},
    time::Duration,
};

use model::{Pid, TenantId};
use rand::{SeedableRng, rngs::StdRng};
use wire::{
    message::{
        TransactionStatus,
        build::{self, Report, Severity},
    },
    startup::CancelKey,
};

use super::{
    Enough, Home, Tally,
    life::{Answer, End, Life, Unit},
};
use crate::kit::Tenant;

/// A connection on which just this is said, and then nothing more.
struct Said(Cursor<Vec<u8>>);

impl Read for Said {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Said {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What the client makes of it.
#[derive(Debug, Eq, PartialEq)]
enum Makes {
    /// All went well, or not, and it goes on.
    GoesOn {
        well: bool,
    },
    Leaves,
    IsLost,
    Finds,
}

/// A server's messages: `1` a row that says 1, `C` the end of a statement, `E` an error of the client's
/// (22012), `K` one of a cancel, `T` the end of the connection, `Z` ready.
fn said(messages: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for message in messages.chars() {
        let mut error = |severity, code| {
            let report = Report {
                severity,
                code,
                message: "so",
                detail: "",
                hint: "",
            };
            build::error_response(&report, &mut out);
        };
        match message {
            '1' => out.extend(b"D\0\0\0\x0b\0\x01\0\0\0\x011"),
            'C' => out.extend(b"C\0\0\0\x05\0"),
            'E' => error(Severity::Error, "22012"),
            'K' => error(Severity::Error, "57014"),
            'T' => error(Severity::Fatal, "57P01"),
            'Z' => build::ready_for_query(TransactionStatus::Idle, &mut out),
            _ => unreachable!(),
        }
    }
    out
}

fn makes(unit: &[Answer], messages: &str) -> Makes {
    let mut rng = StdRng::seed_from_u64(1);
    let home = Home {
        tenant: Tenant {
            id: TenantId::random(&mut rng),
            pid: Pid::random(&mut rng),
            password: String::new(),
        },
        has_rows_max: false,
    };
    let tally = Tally::new(Enough {
        time: Duration::ZERO,
        answers: 0,
    });
    let key = (CancelKey::new(1, &[0; 4]).unwrap(), 0);
    let stream = Box::new(Said(Cursor::new(said(messages))));
    let mut life = Life::new(stream, key, ("UTC", ""), &home, &tally, rng);
    let unit: Unit = unit.to_vec();
    let ended = life.receive(&[], vec![unit]);
    if !tally.findings.into_inner().unwrap().is_empty() {
        return Makes::Finds;
    }
    match ended {
        Ok(well) => Makes::GoesOn { well },
        Err(End::Left) => Makes::Leaves,
        Err(End::Lost) => Makes::IsLost,
    }
}

#[test]
fn an_answer_is_right_or_an_error_that_may_come_and_the_connection_may_end_anywhere() {
    let one = || Answer::Rows(vec![vec!["1".to_owned()]]);
    let fails = || Answer::Error("22012");
    let well = Makes::GoesOn { well: true };
    let not_well = Makes::GoesOn { well: false };
    for (unit, messages, expected) in [
        (vec![one()], "1CZ", &well),
        (vec![one(), Answer::Done], "1CCZ", &well),
        (vec![fails()], "EZ", &well),
        (vec![one()], "KZ", &not_well),
        (vec![one()], "1KZ", &not_well),
        (vec![fails()], "KZ", &not_well),
        // Where it may end: anywhere, told so or not.
        (vec![one()], "", &Makes::IsLost),
        (vec![one()], "1", &Makes::IsLost),
        (vec![one()], "1C", &Makes::IsLost),
        (vec![one()], "T", &Makes::IsLost),
        (vec![one()], "1T", &Makes::IsLost),
        (vec![one()], "1CT", &Makes::IsLost),
        (vec![fails()], "E", &Makes::IsLost),
        (vec![fails()], "ET", &Makes::IsLost),
        (vec![one()], "KT", &Makes::IsLost),
        // It was carried out, and then failed, or not.
        (vec![one()], "1CKZ", &Makes::Leaves),
        // Somebody else's.
        (vec![one()], "CZ", &Makes::Finds),
        (vec![one()], "11CZ", &Makes::Finds),
        (vec![one()], "EZ", &Makes::Finds),
        (vec![one()], "11KZ", &Makes::Finds),
        (vec![one()], "Z", &Makes::Finds),
        (vec![one()], "1CCZ", &Makes::Finds),
        (vec![fails()], "1CZ", &Makes::Finds),
        (vec![fails()], "EEZ", &Makes::Finds),
        (vec![fails()], "EKZ", &Makes::Finds),
        (vec![fails()], "E1CZ", &Makes::Finds),
        (vec![fails()], "E1T", &Makes::Finds),
        (vec![fails()], "E1Z", &Makes::Finds),
        (vec![one()], "1C1Z", &Makes::Finds),
        // Nothing follows the end.
        (vec![one()], "TZ", &Makes::Finds),
        (vec![one()], "TT", &Makes::Finds),
        (vec![fails()], "ETZ", &Makes::Finds),
    ] {
        assert_eq!(makes(&unit, messages), *expected, "{unit:?}: {messages}");
    }
}
