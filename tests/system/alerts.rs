//! Alerts, set up and tried with the program, and told to a webhook.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpListener,
    sync::mpsc::{self, Receiver},
    time::Duration,
};

use kit::{Stack, program::run};
use serde_json::Value;

/// Takes messages in a thread of its own: headers and body of each.
fn webhook() -> (String, Receiver<(String, Value)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut reader = BufReader::new(stream.unwrap());
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                reader.read_line(&mut head).unwrap();
            }
            let head = head.to_lowercase();
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "));
            let mut body = vec![0; length.unwrap().parse().unwrap()];
            reader.read_exact(&mut body).unwrap();
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
            reader.get_mut().write_all(answer).unwrap();
            if tell
                .send((head, serde_json::from_slice(&body).unwrap()))
                .is_err()
            {
                return;
            }
        }
    });
    (url, told)
}

/// A webhook set with the program gets the test, and an alert that somebody's rule makes one.
#[test]
fn a_webhook_is_set_tried_and_told_with_the_program() {
    let mut stack = Stack::start();
    stack.create("app");
    let key = stack.operator_key();
    let alert = |words: &[&str]| {
        let words = [&["alert"], words].concat();
        run(stack.cli_command(&words).env("TENANTRY_API_KEY", &key))
    };
    assert!(alert(&["target", "show"]).ok().contains("nobody"));
    assert!(alert(&["test"]).failed(5).contains("no webhook"));
    let (url, told) = webhook();
    let secret = alert(&["target", "set", &url, "--quiet"]).ok().to_owned();
    assert!(secret.starts_with("whs_"), "{secret}");
    let tested = alert(&["test", "--json"]).json();
    let (head, message) = told.recv_timeout(Duration::from_secs(30)).unwrap();
    assert_eq!(message["type"], "alert.test");
    assert_eq!(message["id"], tested["id"]);
    assert!(head.contains("tenantry-signature: t="), "{head}");
    let again = alert(&["target", "set", &url]);
    assert!(!again.ok().contains("whs_"), "shown once");
    assert!(alert(&["target", "show"]).ok().contains("Taken last"));

    // By its name it is the operator's own database that is meant.
    alert(&["rule", "add", "latency", "--db", "app"]).failed(4);
    let rule = alert(&[
        "rule",
        "add",
        "connections",
        "--threshold",
        "0.1",
        "--for",
        "0s",
        "--quiet",
    ]);
    let rule = rule.ok().to_owned();
    let listed = alert(&["rule", "list"]);
    assert!(listed.ok().contains(&rule) && listed.ok().contains("default"));
    let address = stack.create("busy")["connection_string"]
        .as_str()
        .unwrap()
        .to_owned();
    let mut busy = kit::program::psql(&address)
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let (_, message) = told.recv_timeout(Duration::from_secs(90)).unwrap();
    assert_eq!(message["type"], "alert.opened");
    assert_eq!(message["alert"]["subject"]["name"], "busy");
    let open = alert(&["list"]);
    assert!(
        open.ok().contains("client_connections_max"),
        "{}",
        open.ok()
    );
    busy.kill().unwrap();
    busy.wait().unwrap();
    let (_, message) = told.recv_timeout(Duration::from_secs(90)).unwrap();
    assert_eq!(message["type"], "alert.resolved");
    alert(&["rule", "remove", &rule]).ok();
    assert_eq!(alert(&["list", "--json"]).json(), serde_json::json!([]));
    assert!(alert(&["list", "--all"]).ok().contains("resolved"));
    alert(&["target", "remove"]).ok();
    assert!(!stack.log().contains(&secret));
    stack.stop();
}
