//! Whoever changes the files is found out, in every way that somebody may try.

#![allow(clippy::unwrap_used, reason = "a test's own code")]

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use audit::{
    Event, Head, Keys, Log, Options, Reader, Stream,
    verify::{self, Known, Report, With},
};
use scratch::Scratch;

const SECRET: [u8; 32] = [7; 32];

fn options(dir: &Path) -> Options {
    Options::new(dir.to_owned(), Stream::Admin, "one", Keys::derive(&SECRET))
}

/// A log of so many lines that were waited for.
async fn write(options: Options, lines: u64) -> Head {
    let log = Log::open(options).unwrap();
    for number in 0..lines {
        let event = Event::new("answer").number("number", number);
        log.record(event).await.unwrap();
    }
    end(&log)
}

/// Ends it, and returns its last head.
fn end(log: &Log) -> Head {
    log.close();
    let kept = log.kept().borrow().clone();
    kept.head.unwrap()
}

fn known(head: &Head) -> Known {
    Known {
        chain: head.chain.clone(),
        stream: head.stream,
        segment: head.segment,
        first: head.first,
        link: head.link,
        signature: head.signature.to_vec(),
    }
}

fn check(dir: &Path, heads: &[&Head]) -> Report {
    let known: Vec<Known> = heads.iter().map(|head| known(head)).collect();
    verify::directory(dir, &With::keys(Keys::derive(&SECRET)), &known).unwrap()
}

/// Without the secret.
fn check_outside(dir: &Path) -> Report {
    let with = With::public(Keys::derive(&SECRET).public());
    verify::directory(dir, &with, &[]).unwrap()
}

fn files(dir: &Path) -> Vec<PathBuf> {
    audit::segments(dir, Stream::Admin).unwrap()
}

/// What is told, in one text.
fn told(report: &Report) -> String {
    let problems = report.problems.iter();
    let lines = problems.map(|problem| {
        let name = problem.file.file_name().unwrap().to_str().unwrap();
        format!("{name}:{:?}: {}", problem.line, problem.what)
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn lines(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap();
    text.lines().map(str::to_owned).collect()
}

fn put(path: &Path, lines: &[String]) {
    fs::write(
        path,
        lines
            .iter()
            .map(|line| format!("{line}\n"))
            .collect::<String>(),
    )
    .unwrap();
}

#[tokio::test]
async fn a_log_that_nobody_touched_is_whole() {
    let dir = Scratch::new();
    let first = write(options(dir.path()), 5).await;
    let second = write(options(dir.path()), 5).await;
    let report = check(dir.path(), &[&first, &second]);
    assert!(report.is_whole(), "{}", told(&report));
    // Of each file: its first line, five, that it stopped, and a head.
    assert_eq!(
        (report.files, report.lines, report.heads, report.known),
        (2, 16, 2, 2)
    );
    assert_eq!(report.ends[&Stream::Admin].1, 0, "a head covers all");
    assert!(check_outside(dir.path()).is_whole());
}

#[tokio::test]
async fn every_changed_byte_is_found_where_it_is() {
    let dir = Scratch::new();
    write(options(dir.path()), 2).await;
    let path = &files(dir.path())[0];
    let whole = fs::read(path).unwrap();
    for at in 0..whole.len() {
        let mut changed = whole.clone();
        changed[at] ^= 1;
        fs::write(path, &changed).unwrap();
        let report = check(dir.path(), &[]);
        let line = whole[..at].iter().filter(|byte| **byte == b'\n').count() as u64 + 1;
        // The last byte of all ends the last line; without it that is one in the making.
        let is_last = at + 1 == whole.len();
        let found = report.problems.first().and_then(|problem| problem.line);
        assert!(
            is_last || found == Some(line),
            "byte {at}: {}",
            told(&report)
        );
        assert!(!is_last || !report.notes.is_empty());
    }
}

#[tokio::test]
async fn removed_swapped_and_repeated_lines_are_found() {
    let dir = Scratch::new();
    write(options(dir.path()), 6).await;
    let path = &files(dir.path())[0];
    let whole = lines(path);
    let check_with = |change: &dyn Fn(&mut Vec<String>), line: u64, words: &str| {
        let mut changed = whole.clone();
        change(&mut changed);
        put(path, &changed);
        for report in [check(dir.path(), &[]), check_outside(dir.path())] {
            let first = report.problems.first().unwrap_or_else(|| panic!("{words}"));
            assert_eq!(first.line, Some(line), "{}", told(&report));
            assert!(first.what.contains(words), "{}", told(&report));
        }
    };
    check_with(
        &|lines| drop(lines.remove(3)),
        4,
        "line 4 of the log, before it, is missing",
    );
    check_with(
        &|lines| drop(lines.drain(2..5)),
        3,
        "lines 3 to 5 of the log",
    );
    check_with(&|lines| lines.swap(3, 4), 4, "missing");
    check_with(
        &|lines| lines.insert(4, lines[3].clone()),
        5,
        "order was changed",
    );
    check_with(&|lines| drop(lines.remove(0)), 1, "does not begin a file");
    put(path, &whole);
    assert!(check(dir.path(), &[]).is_whole());
}

#[tokio::test]
async fn a_cut_tail_is_found_by_the_head_that_is_kept_elsewhere() {
    let dir = Scratch::new();
    let head = write(options(dir.path()), 6).await;
    let path = files(dir.path())[0].clone();
    let whole = lines(&path);
    for left in 1..usize::try_from(head.link.seq).unwrap() {
        put(&path, &whole[..left]);
        let report = check(dir.path(), &[&head]);
        assert!(
            told(&report).contains("the end was cut off"),
            "{left}: {}",
            told(&report)
        );
        assert_eq!(report.lacking, report.problems_count, "{left}");
    }
    // A line that was changed is more than lines that are not there.
    let mut changed = whole[..3].to_vec();
    changed[1] = changed[1].replacen("\"seq\":2", "\"seq\":3", 1);
    put(&path, &changed);
    let report = check(dir.path(), &[&head]);
    assert_eq!(report.lacking, 1, "{}", told(&report));
    assert!(report.lacking < report.problems_count, "{}", told(&report));
    // Also when the chain has gone on since.
    put(&path, &whole[..3]);
    let later = write(options(dir.path()), 20).await;
    let report = check(dir.path(), &[&head, &later]);
    assert!(
        told(&report).contains("the end was cut off"),
        "{}",
        told(&report)
    );
    assert_eq!(report.known, 1);
}

#[tokio::test]
async fn a_missing_file_is_found_at_the_beginning_in_the_middle_and_at_the_end() {
    for missing in 0..3 {
        let dir = Scratch::new();
        let mut heads = Vec::new();
        for _ in 0..3 {
            heads.push(write(options(dir.path()), 2).await);
        }
        fs::remove_file(&files(dir.path())[missing]).unwrap();
        let report = check(dir.path(), &heads.iter().collect::<Vec<_>>());
        assert!(!report.is_whole(), "{missing}");
        // The end is known by the catalog only.
        assert_eq!(check(dir.path(), &[]).is_whole(), missing == 2);
    }
}

#[tokio::test]
async fn a_copy_may_lack_chains_and_the_log_itself_may_not() {
    let dir = Scratch::new();
    let admin = write(options(dir.path()), 3).await;
    let mut others = options(dir.path());
    others.stream = Stream::Connections;
    let connections = write(others, 3).await;
    for file in audit::segments(dir.path(), Stream::Connections).unwrap() {
        fs::remove_file(file).unwrap();
    }
    let heads = [known(&admin), known(&connections)];
    let with = With::keys(Keys::derive(&SECRET));
    let log = verify::directory(dir.path(), &with, &heads).unwrap();
    assert!(
        told(&log).contains("there is no file of connections"),
        "{}",
        told(&log)
    );
    assert_eq!(log.absent, []);
    let copy = || verify::copy(dir.path(), &with, &heads).unwrap();
    assert!(copy().is_whole(), "{}", told(&copy()));
    assert_eq!(copy().absent, [Stream::Connections, Stream::Statements]);
    assert_eq!(copy().known, 1);

    // What it has is held to everything.
    let path = files(dir.path())[0].clone();
    let whole = lines(&path);
    let changed = whole[1].replacen("\"number\":0", "\"number\":1", 1);
    let cases: [(&str, Vec<String>); 4] = [
        ("changed", [&whole[..1], &[changed], &whole[2..]].concat()),
        ("removed", [&whole[..1], &whole[2..]].concat()),
        ("swapped", {
            let mut swapped = whole.clone();
            swapped.swap(1, 2);
            swapped
        }),
        ("cut", whole[..whole.len() - 2].to_vec()),
    ];
    for (what, lines) in cases {
        put(&path, &lines);
        assert!(!copy().is_whole(), "{what}");
    }
    put(&path, &whole);
    assert!(copy().is_whole());
    fs::remove_file(&path).unwrap();
    assert!(verify::copy(dir.path(), &with, &heads).is_err());
}

#[tokio::test]
async fn a_chain_made_without_the_key_fits_and_is_found() {
    let dir = Scratch::new();
    let forger = Options {
        keys: Keys::derive(&[8; 32]),
        ..options(dir.path())
    };
    write(forger, 3).await;
    let report = check(dir.path(), &[]);
    assert!(
        told(&report).contains("not written with the key"),
        "{}",
        told(&report)
    );
    let outside = check_outside(dir.path());
    assert!(told(&outside).contains("signature"), "{}", told(&outside));
    let own = With::keys(Keys::derive(&[8; 32]));
    assert!(verify::directory(dir.path(), &own, &[]).unwrap().is_whole());
}

#[tokio::test]
async fn a_line_that_was_torn_by_a_kill_is_told_and_kept() {
    let dir = Scratch::new();
    write(options(dir.path()), 3).await;
    let path = files(dir.path())[0].clone();
    let whole = fs::read(&path).unwrap();
    // Killed in the middle of its last line.
    let cut = whole.len() - 40;
    fs::write(&path, &whole[..cut]).unwrap();
    let report = check(dir.path(), &[]);
    assert!(
        report.is_whole() && report.notes[0].contains("no line"),
        "{report:?}"
    );
    write(options(dir.path()), 3).await;
    let report = check(dir.path(), &[]);
    assert!(report.is_whole(), "{}", told(&report));
    assert_eq!(
        fs::read(&path).unwrap(),
        &whole[..cut],
        "it is as it was found"
    );
    // Nobody adds to that, or takes it away.
    for changed in [&whole[..cut - 1], &whole[..]] {
        fs::write(&path, changed).unwrap();
        assert!(!check(dir.path(), &[]).is_whole());
    }
}

#[tokio::test]
async fn full_files_follow_each_other_and_old_ones_go_with_a_word() {
    let dir = Scratch::new();
    let small = Options {
        segment_bytes_max: 2000,
        ..options(dir.path())
    };
    write(small.clone(), 40).await;
    let all = files(dir.path()).len();
    assert!(all > 5, "{all}");
    assert!(check(dir.path(), &[]).is_whole());
    // What is too much goes with the next heads, which come by the number of lines.
    let log = Log::open(Options {
        bytes_max: 5000,
        ..small
    })
    .unwrap();
    for number in 0..1100 {
        log.announce(Event::new("answer").number("number", number))
            .await
            .unwrap();
    }
    end(&log);
    let left = files(dir.path());
    assert!(!left.contains(&dir.path().join("admin-00000001.jsonl")));
    let report = check(dir.path(), &[]);
    assert!(report.is_whole(), "{}", told(&report));
    assert!(
        report.notes[0].contains("removed by age or size"),
        "{:?}",
        report.notes
    );
    // One more than was said.
    fs::remove_file(&left[0]).unwrap();
    let report = check(dir.path(), &[]);
    assert!(
        told(&report).contains("no line says that it was removed"),
        "{}",
        told(&report)
    );
}

#[tokio::test]
async fn a_reader_follows_the_log_over_its_files() {
    let dir = Scratch::new();
    let log = Log::open(Options {
        segment_bytes_max: 1500,
        ..options(dir.path())
    })
    .unwrap();
    let mut reader = Reader::after(dir.path(), Stream::Admin, 0).unwrap();
    let (mut kept, mut next) = (log.kept(), 1);
    for number in 0..30 {
        log.record(Event::new("answer").number("number", number))
            .await
            .unwrap();
        let last = kept.borrow_and_update().seq;
        while let Some(line) = reader.next(last).unwrap() {
            assert_eq!(line.seq, next);
            next += 1;
        }
        assert_eq!(next, last + 1);
    }
    // From the middle.
    let mut reader = Reader::after(dir.path(), Stream::Admin, 17).unwrap();
    assert_eq!(reader.next(20).unwrap().unwrap().seq, 18);
    log.close();
}

#[tokio::test]
async fn what_finds_no_disk_is_refused_and_counted_and_the_chain_goes_on() {
    let dir = Scratch::new();
    let place = dir.path().join("audit");
    let log = Log::open(Options {
        segment_bytes_max: 1,
        ..options(&place)
    })
    .unwrap();
    log.record(Event::new("answer").number("number", 1))
        .await
        .unwrap();
    // Every line begins a file here, and there is nowhere to put it.
    let away = dir.path().join("away");
    fs::rename(&place, &away).unwrap();
    log.record(Event::new("answer").number("number", 2))
        .await
        .unwrap_err();
    assert!(log.counts().is_failing);
    fs::rename(&away, &place).unwrap();
    log.record(Event::new("answer").number("number", 3))
        .await
        .unwrap();
    end(&log);
    let counts = log.counts();
    assert_eq!((counts.lost, counts.is_failing), (1, false));
    let report = check(&place, &[]);
    assert!(report.is_whole(), "{}", told(&report));
    let all: String = files(&place)
        .iter()
        .map(|path| fs::read_to_string(path).unwrap())
        .collect();
    assert!(all.contains("\"event\":\"lost\",\"lines\":1"), "{all}");
    assert!(!all.contains("\"number\":2"));
}

/// The directory was away in the middle of beginning a file, which could then not be taken back.
#[tokio::test]
async fn a_file_that_was_begun_and_not_taken_back_stops_nothing_unless_it_is_of_somebody_else() {
    let dir = Scratch::new();
    let (place, away) = (dir.path().join("audit"), dir.path().join("away"));
    let every_line = Options {
        segment_bytes_max: 1,
        ..options(&place)
    };
    let log = Log::open(every_line.clone()).unwrap();
    let record = async |number| {
        log.record(Event::new("answer").number("number", number))
            .await
    };
    let mut sent = 0..;
    let mut left = Vec::new();
    for case in [
        "nothing",
        "a part of its line",
        "its line",
        "a line of somebody else",
    ] {
        record(sent.next().unwrap()).await.unwrap();
        fs::rename(&place, &away).unwrap();
        record(sent.next().unwrap()).await.unwrap_err();
        // As the log would have begun it: it ends with a head now.
        let copy = dir.path().join(format!("copy of {case}"));
        fs::create_dir(&copy).unwrap();
        for file in files(&away) {
            fs::copy(&file, copy.join(file.file_name().unwrap())).unwrap();
        }
        let foreign = Options {
            keys: Keys::derive(&[8; 32]),
            dir: copy.clone(),
            ..every_line.clone()
        };
        let same = options(&copy);
        let is_foreign = case == "a line of somebody else";
        drop(Log::open(if is_foreign { foreign } else { same }).unwrap());
        let begun = &files(&copy)[files(&away).len()];
        let line = format!("{}\n", lines(begun)[0]);
        let text = match case {
            "nothing" => "",
            "a part of its line" => &line[..40],
            _ => &line,
        };
        let path = place.join(begun.file_name().unwrap());
        fs::write(away.join(path.file_name().unwrap()), text).unwrap();
        fs::rename(&away, &place).unwrap();
        if is_foreign {
            record(sent.next().unwrap()).await.unwrap_err();
            assert!(log.counts().is_failing);
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
            fs::rename(&path, dir.path().join("elsewhere")).unwrap();
        } else {
            left.push((path, text.to_owned()));
        }
        record(sent.next().unwrap()).await.unwrap();
        assert!(!log.counts().is_failing, "{case}");
    }
    end(&log);
    // What had a place there before has it now.
    for (path, text) in &left[1..] {
        assert_eq!(&fs::read_to_string(path).unwrap(), text);
    }
    let report = check(&place, &[]);
    assert!(report.is_whole(), "{}", told(&report));
    let counts = log.counts();
    assert_eq!((counts.lines, counts.lost), (report.lines, 5));
    // And nobody may change it.
    for (path, text) in &left[1..] {
        fs::write(path, &text[1..]).unwrap();
        assert!(!check(&place, &[]).is_whole());
        fs::write(path, text).unwrap();
    }
}

/// Whoever does nothing without a line adds none while it fails, so somebody else has to find out that it works.
#[tokio::test]
async fn a_log_that_failed_tries_again_though_nobody_adds_anything() {
    let dir = Scratch::new();
    let place = dir.path().join("audit");
    let log = Log::open(Options {
        segment_bytes_max: 1,
        stream: Stream::Statements,
        ..options(&place)
    })
    .unwrap();
    assert!(log.can_take());
    let away = dir.path().join("away");
    fs::rename(&place, &away).unwrap();
    log.record(Event::new("statement")).await.unwrap_err();
    assert!(!log.can_take());
    let mut kept = log.kept();
    fs::rename(&away, &place).unwrap();
    // What is written first when it works again is that lines were lost, and that is told when it is kept.
    let works = async {
        while !log.can_take() {
            kept.changed().await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(60), works)
        .await
        .unwrap();
    log.close();
    assert!(!log.can_take(), "nobody writes any more");
    let files = audit::segments(&place, Stream::Statements).unwrap();
    let all: String = files
        .iter()
        .map(|path| fs::read_to_string(path).unwrap())
        .collect();
    assert!(all.contains("\"event\":\"lost\",\"lines\":1"), "{all}");
    assert!(check(&place, &[]).is_whole());
}

/// The contract of those who do not wait: nothing is in their way, and what is missing is counted.
#[tokio::test]
async fn a_full_queue_costs_lines_that_are_counted() {
    let dir = Scratch::new();
    let log = Log::open(options(dir.path())).unwrap();
    for number in 0..20_000 {
        log.note(Event::new("connect").number("number", number));
    }
    log.record(Event::new("answer")).await.ok();
    let waited = async {
        // The count of what was lost comes with the next line.
        while log.record(Event::new("answer")).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), waited)
        .await
        .unwrap();
    end(&log);
    let path = &files(dir.path())[0];
    let all = lines(path);
    let written = all
        .iter()
        .filter(|line| line.contains("\"connect\""))
        .count() as u64;
    let lost: u64 = all
        .iter()
        .filter_map(|line| line.split_once("\"event\":\"lost\",\"lines\":"))
        .map(|(_, rest)| rest.split(',').next().unwrap().parse::<u64>().unwrap())
        .sum();
    assert_eq!(written + lost, 20_000);
    assert_eq!(log.counts().lost, lost);
    assert!(check(dir.path(), &[]).is_whole());
}
