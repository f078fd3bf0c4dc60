//! The whole-system tests: the real binary, real PostgreSQL, real clients. One suite per file.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod alerts;
mod attached;
mod audit;
mod backups;
mod branch;
mod catalog;
mod command_line;
mod credentials;
mod files;
mod flows;
mod hold;
mod import;
mod insight;
mod installation;
mod lifetimes;
mod limits;
mod metrics;
mod migrations;
mod moments;
mod processes;
mod settings;
mod statement_log;
mod users;
