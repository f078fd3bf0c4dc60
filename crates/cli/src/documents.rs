//! `docs/cli.md` and `docs/settings.md`, written from the same tables that the program uses.
//!
//! A test that finds a difference writes the new text and fails, so that the change is seen in review.

use std::{fmt::Write as _, fs, path::PathBuf};

use clap::CommandFactory as _;

use crate::{args::Cli, exit::Exit, serve::SETTINGS};

#[track_caller]
fn check(name: &str, text: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../../docs")
        .join(name);
    if fs::read_to_string(&path).ok().as_deref() != Some(text) {
        fs::write(&path, text).expect("write the document");
        panic!(
            "docs/{name} was out of date; it is written anew: look at the difference and commit it"
        );
    }
}

#[test]
fn the_page_of_the_command_line_is_up_to_date() {
    let mut page = String::from(
        "# Command line\n\n\
         Written from the program by a test (`crates/cli/src/documents.rs`).\n\n\
         A database is named by its name or its id: as an argument, with `-d`, by `TENANTRY_DATABASE`, \
         or once for all with `tenantry use`. Results go to standard output, everything said about them \
         to standard error.\n\n\
         ## Exit codes\n\n| code | meaning |\n| ---: | --- |\n| 0 | done |\n",
    );
    for (code, meaning) in Exit::ALL {
        let _ = writeln!(page, "| {} | {meaning} |", code as u8);
    }
    page += "\n`db connect -c`, `-f` and standard input run psql; its exit codes become 9 (a statement was \
         refused) and 8 (the connection was lost or never made).\n\n";
    page += KEPT;
    page += "\n## Commands\n";
    let mut command = Cli::command();
    command.build();
    describe(&mut page, &command, "tenantry");
    check("cli.md", &page);
}

const KEPT: &str = "\
## What is kept where

| variable | meaning |
| --- | --- |
| `TENANTRY_API_URL` | address of the API; `http://127.0.0.1:5480` when it is not set |
| `TENANTRY_API_CA` | file of certificates to trust, for an API over https; the system's when it is not set |
| `TENANTRY_DATA_DIR` | data directory of a server on this machine: for an API over https at a loopback address, the certificate that it made for itself is trusted, too |
| `TENANTRY_API_KEY` | token to use; nothing is registered or written then |
| `TENANTRY_DATABASE` | the database of commands that name none |
| `TENANTRY_HOME` | directory of the file below; `~/.tenantry` when it is not set |

`credentials.toml` (mode 0600, in a directory of mode 0700) holds per server: the anonymous project that the
first command registered, the database chosen with `use`, and the connection strings that `create` and
`reset-password` returned. The server shows a password once and keeps none, so this file is the only place
where `db connect` can find one. psql gets it by its environment, never by its command line. `logout` sets
the entry of a server aside in a file of its own.
";

fn describe(page: &mut String, command: &clap::Command, path: &str) {
    for sub in command.get_subcommands() {
        if sub.get_name() == "help" || sub.is_hide_set() {
            continue;
        }
        let path = format!("{path} {}", sub.get_name());
        if sub.has_subcommands() {
            describe(page, sub, &path);
            continue;
        }
        let about = sub.get_about().map(ToString::to_string).unwrap_or_default();
        let _ = writeln!(page, "\n### `{path}`\n\n{about}");
        if sub.get_name() == "serve" {
            page.push_str("See [settings](settings.md).\n");
            continue;
        }
        let mut rows = String::new();
        for argument in sub.get_arguments() {
            let id = argument.get_id().as_str();
            let global = [
                "api_url", "api_ca", "database", "output", "json", "quiet", "help", "version",
            ];
            if global.contains(&id) {
                continue;
            }
            let mut name = match (argument.get_short(), argument.get_long()) {
                (Some(short), Some(long)) => format!("-{short}, --{long}"),
                (None, Some(long)) => format!("--{long}"),
                _ => argument
                    .get_value_names()
                    .and_then(|names| Some(names.first()?.to_string()))
                    .unwrap_or_else(|| id.to_uppercase()),
            };
            if argument.get_action().takes_values()
                && argument.get_long().is_some()
                && let Some([value, ..]) = argument.get_value_names()
            {
                let _ = write!(name, " {value}");
            }
            let help = argument
                .get_help()
                .map(ToString::to_string)
                .unwrap_or_default();
            let _ = writeln!(rows, "| `{name}` | {help} |");
        }
        if !rows.is_empty() {
            let _ = write!(page, "\n| argument | meaning |\n| --- | --- |\n{rows}");
        }
    }
    if path == "tenantry" {
        page.push_str(
            "\n### Every command that uses the API\n\n| argument | meaning |\n| --- | --- |\n\
             | `--api-url URL` | address of the API |\n\
             | `--api-ca FILE` | certificates to trust, PEM, for an API over https; instead of the system's |\n\
             | `-d, --database DB` | the database to use where a command names none |\n\
             | `--output FORM` | `table`, `json`, `csv` with a header, `raw`: tabs without a header |\n\
             | `--json` | the same as `--output json` |\n\
             | `--quiet` | the one thing that matters: an id, a connection string, nothing |\n",
        );
    }
}

#[test]
fn the_page_of_the_settings_is_up_to_date() {
    let mut page = String::from(
        "# Settings of `tenantry serve`\n\n\
         Written from the program by a test (`crates/cli/src/documents.rs`).\n\n\
         Each setting has one name in three places; the first that is given wins: the flag `--NAME`, the \
         variable `TENANTRY_NAME` (upper case, `_` for `-`), the key `NAME` of the TOML file that `--config` or \
         `TENANTRY_CONFIG` names. All mistakes are reported together, those of the file with their line; \
         an unknown key is a mistake. `--check` does only that.\n\n\
         | name | value | default | meaning |\n| --- | --- | --- | --- |\n",
    );
    for setting in SETTINGS {
        let value = setting.value.unwrap_or("true, false");
        let _ = writeln!(
            page,
            "| `{}` | {value} | {} | {} |",
            setting.name, setting.default, setting.help
        );
    }
    page += "\nTimes are written like `30s`, `15m`, `24h`, `7d`, sizes like `512MB`, `2GB` (units of 1,024).\n\n\
         When an address is not a loopback one, the API over plain HTTP is refused unless `api-tls` or \
         `allow-plain-http` is set, and anonymous registration is off unless `allow-anonymous` is.\n\n\
         ## What lies in the data directory\n\n\
         | path | what | mode |\n| --- | --- | --- |\n\
         | `installation.key` | the secret that login salts are derived from. Without it no password of a tenant works: back it up. The catalog knows which one it belongs to: with another one, or none, nothing is started and nothing changed | 0600 |\n\
         | `node.key` | the secret that server passwords are derived from; with another one they are set anew | 0600 |\n\
         | `operator.key` | the operator's token for the API | 0600 |\n\
         | `instance` | by which processes that share a catalog know each other apart | 0600 |\n\
         | `tls/server.crt`, `tls/server.key` | the self-signed certificate, when none was given. Clients that verify use `server.crt` as their root | 0644, 0600 |\n\
         | `superuser.password` | of the platform's own role in PostgreSQL, `tenantry` | 0600 |\n\
         | `postgres/` | PostgreSQL's data, settings and socket. When its user cannot come here, the file `postgres.base` names the place, below `/var/lib/tenantry` | 0710 |\n\
         | `postgres/history/` | what the databases were at any second of the last day ([page](moments.md)) | 0710 |\n\
         | `audit/` | who did what and who connected, in files that show when somebody changed them ([page](audit.md)) | 0700 |\n\
         | `log/` | PostgreSQL's log, rotated, without statements | 0700 |\n\
         | `tenantry.lock` | held while a server runs on this directory | 0600 |\n\n\
         ## When installation.key is lost\n\n\
         Look for it first: another one brings nothing back. One start with `--replace-installation-key` makes the catalog belong to the key \
         that is there, or to a new one; its log says how many backups and webhooks that concerns. Behind it\n\n\
         | what | is | to do |\n| --- | --- | --- |\n\
         | data, limits, users, schedules, tokens of the API | as before | |\n\
         | passwords of databases and their users, connect tokens and keys | refused | `db reset-password`, `db users reset-password`; make new tokens and keys |\n\
         | backups made before | listed, and said to be made under another installation.key by `backup list`, `verify` and `restore`; nothing opens them. They are no good backups for `backup_age`, drills and retention, and go with their age | `backup create`, or wait for the schedule: new backups of the same database have a key of their own |\n\
         | webhooks of alerts | nothing is sent; `alert target show` says why | `alert target set URL --new-secret` |\n\
         | answers kept for a repeated `Idempotency-Key` | not given again | |\n\
         | the audit log | goes on in new files; `audit verify` objects to every line and signature from before | [how to check both parts](audit.md#under-another-installationkey) |\n\
         | hashes of statements in the audit log | others for the same statement | `audit hash` knows those from now on |\n\n\
         Should the lost key be found later, put it back and give the flag again: what was made under it opens, and what was made under the other \
         one does not.\n";
    check("settings.md", &page);
}
