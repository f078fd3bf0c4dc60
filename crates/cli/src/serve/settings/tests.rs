use super::*;

fn args(given: &[(&'static str, &str)]) -> ServeArgs {
    ServeArgs {
        given: given.iter().map(|(k, v)| (*k, (*v).to_owned())).collect(),
        config: None,
        check: false,
    }
}

/// Reads `text` as a file and tells line and text of each mistake.
fn mistakes(text: &str) -> Vec<(usize, String)> {
    let scratch = scratch::Scratch::new();
    let path = scratch.join("settings.toml");
    std::fs::write(&path, text).unwrap();
    let mut raw = Raw::default();
    read_file(&path, &mut raw);
    raw.mistakes
        .into_iter()
        .map(|mistake| match mistake.source {
            Source::File { line, .. } => (line, mistake.what),
            other => panic!("{other}"),
        })
        .collect()
}

/// All ways to say yes or no, for every switch there is.
#[test]
fn switches_are_said_alone_with_a_value_or_in_the_file() {
    use clap::FromArgMatches as _;
    for setting in SETTINGS.iter().filter(|setting| setting.value.is_none()) {
        let flag = format!("--{}", setting.name);
        for (words, value) in [
            (vec![flag.clone()], "true"),
            (vec![flag.clone(), "true".into()], "true"),
            (vec![flag.clone(), "false".into()], "false"),
            (vec![format!("{flag}=false")], "false"),
            (vec![flag.clone(), "--workers".into(), "2".into()], "true"),
        ] {
            let command = <ServeArgs as clap::Args>::augment_args(clap::Command::new("serve"));
            let words = [vec!["serve".to_owned()], words].concat();
            let matches = command.try_get_matches_from(&words).unwrap();
            let raw = ServeArgs::from_arg_matches(&matches)
                .unwrap()
                .gather(|_| None);
            assert_eq!(raw.values[setting.name].0, value, "{words:?}");
        }
        let mut raw = Raw::default();
        let scratch = scratch::Scratch::new();
        let path = scratch.join("switch.toml");
        std::fs::write(&path, format!("{} = true\n", setting.name)).unwrap();
        read_file(&path, &mut raw);
        assert_eq!(
            (raw.values[setting.name].0.as_str(), raw.mistakes),
            ("true", vec![])
        );
    }
}

#[test]
fn a_flag_beats_a_variable() {
    let environment = |name: &str| match name {
        "TENANTRY_PG_LISTEN" => Some("127.0.0.1:1".into()),
        "TENANTRY_WORKERS" => Some("2".into()),
        "TENANTRY_LOG" => Some(OsString::new()),
        _ => None,
    };
    let raw = args(&[("pg-listen", "127.0.0.1:2")]).gather(environment);
    assert_eq!(raw.values["pg-listen"].0, "127.0.0.1:2");
    assert_eq!(raw.values["workers"].0, "2");
    assert!(
        !raw.values.contains_key("log"),
        "an empty variable says nothing"
    );
}

#[test]
fn every_mistake_of_a_file_is_told_with_its_line() {
    let found = mistakes(
        "pg_listen = \"127.0.0.1:1\"\n# fine\nworkers = 2\nworker = 3\nretention = [1]\nfoo-bar-baz = 1\n[log]\nx = 1\n",
    );
    let has = |line: usize, part: &str| {
        assert!(
            found
                .iter()
                .any(|(l, what)| *l == line && what.contains(part)),
            "line {line}, {part}: {found:?}"
        );
    };
    has(1, "did you mean 'pg-listen'");
    has(4, "did you mean 'workers'");
    has(5, "(array)");
    has(6, "--help");
    has(7, "log takes one text");
    assert_eq!(found.len(), 5);
}

#[test]
fn a_value_of_another_kind_is_refused() {
    for (line, want) in [
        (
            "data-dir = 5",
            "data-dir takes one text in quotes, not this kind (integer)",
        ),
        (
            "data-dir = true",
            "data-dir takes one text in quotes, not this kind (boolean)",
        ),
        (
            "retention = 24",
            "retention takes one text in quotes, not this kind (integer)",
        ),
        (
            "workers = true",
            "workers takes a number, not this kind (boolean)",
        ),
        (
            "workers = 1.5",
            "workers takes a number, not this kind (float)",
        ),
        (
            "api-tls = 1",
            "api-tls takes true or false, not this kind (integer)",
        ),
    ] {
        assert_eq!(mistakes(line), [(1, want.to_owned())], "{line}");
    }
    for line in [
        "data-dir = '5'",
        "workers = 2",
        "workers = '2'",
        "api-tls = true",
    ] {
        assert_eq!(mistakes(line), [], "{line}");
    }
}

#[test]
fn broken_toml_is_told_with_its_line_too() {
    let found = mistakes("workers = 2\nlog = \nnonsense = 1\n");
    assert!(found.iter().any(|(line, _)| *line == 2), "{found:?}");
    for text in ["a = [", "data-dir = [\nworker = 3\n"] {
        let found = mistakes(text);
        assert!(
            !found.is_empty()
                && !found
                    .iter()
                    .any(|(_, what)| what.contains("mean") || what.contains("takes")),
            "{found:?}"
        );
    }
}
