//! The small messages of clients and servers that are looked into. The first byte is the type.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wire::message::{client, parse, server};

fuzz_target!(|bytes: &[u8]| {
    let Some((tag, body)) = bytes.split_first() else {
        return;
    };
    match *tag {
        client::QUERY => {
            let _ = parse::query(body);
        }
        client::PARSE => {
            if let Ok(parse) = parse::parse(body) {
                assert_eq!(parse.type_ids().len() * 4, parse.types.len());
            }
        }
        client::BIND => {
            let _ = parse::bind(body);
        }
        // Close and Describe share their letters with servers' messages.
        client::DESCRIBE => {
            let _ = parse::target(body);
        }
        server::COMMAND_COMPLETE => {
            let _ = parse::target(body);
            let _ = parse::command_complete(body);
        }
        server::ERROR_RESPONSE => {
            let _ = parse::execute(body);
            if let Ok(report) = parse::report(body) {
                let _ = (report.code(), report.severity(), report.message());
                assert!(report.fields().count() <= body.len());
            }
        }
        client::PASSWORD => {
            let _ = parse::password(body);
            let _ = parse::sasl_initial_response(body);
        }
        server::AUTHENTICATION => {
            if let Ok(parse::Authentication::Sasl(list)) = parse::authentication(body) {
                assert!(list.iter().count() < body.len());
            }
        }
        server::PARAMETER_STATUS => {
            let _ = parse::parameter_status(body);
        }
        server::BACKEND_KEY_DATA => {
            let _ = parse::backend_key_data(body);
        }
        server::READY_FOR_QUERY => {
            let _ = parse::ready_for_query(body);
        }
        server::NOTIFICATION_RESPONSE => {
            let _ = parse::notification_response(body);
        }
        server::NEGOTIATE_PROTOCOL_VERSION => {
            let _ = parse::negotiate_protocol_version(body);
        }
        _ => {
            let _ = wire::scram::end_point_hash(body);
        }
    }
});
