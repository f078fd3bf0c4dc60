//! Which message of a server answers which request: a table of every pair.

use super::kinds::*;

/// What a message of the server does to the request at the front.
#[derive(Clone, Copy, PartialEq)]
#[repr(u8)]
pub(super) enum Then {
    Mismatch,
    Stay,
    Pop,
    Rows,
    Fail,
    CopyIn,
    CopyOut,
    CopyOver,
    Ready,
}

const fn rules() -> [[Then; 128]; 32] {
    let mut rules = [[Then::Mismatch; 128]; 32];
    let mut code = 0;
    while code < 16 {
        // A notice, a parameter and a notification may come at any time; an error too, when the
        // server ends the session.
        rules[code][b'N' as usize] = Then::Stay;
        rules[code][b'S' as usize] = Then::Stay;
        rules[code][b'A' as usize] = Then::Stay;
        rules[code][b'E' as usize] = Then::Fail;
        rules[code][b'Z' as usize] = Then::Ready;
        code += 1;
    }
    let query = QUERY as usize;
    rules[query][b'T' as usize] = Then::Stay;
    rules[query][b'D' as usize] = Then::Stay;
    rules[query][b'C' as usize] = Then::Stay;
    rules[query][b'I' as usize] = Then::Stay;
    rules[query][b'G' as usize] = Then::CopyIn;
    rules[query][b'H' as usize] = Then::CopyOut;
    rules[QUERY_IN as usize][b'C' as usize] = Then::CopyOver;
    rules[QUERY_OUT as usize][b'd' as usize] = Then::Stay;
    rules[QUERY_OUT as usize][b'c' as usize] = Then::Stay;
    rules[QUERY_OUT as usize][b'C' as usize] = Then::CopyOver;
    rules[PARSE as usize][b'1' as usize] = Then::Pop;
    rules[BIND as usize][b'2' as usize] = Then::Pop;
    rules[DESCRIBE_STATEMENT as usize][b't' as usize] = Then::Rows;
    rules[DESCRIBE_ROWS as usize][b'T' as usize] = Then::Pop;
    rules[DESCRIBE_ROWS as usize][b'n' as usize] = Then::Pop;
    let execute = EXECUTE as usize;
    rules[execute][b'D' as usize] = Then::Stay;
    rules[execute][b'C' as usize] = Then::Pop;
    rules[execute][b'I' as usize] = Then::Pop;
    rules[execute][b's' as usize] = Then::Pop;
    rules[execute][b'G' as usize] = Then::CopyIn;
    rules[execute][b'H' as usize] = Then::CopyOut;
    rules[EXECUTE_IN as usize][b'C' as usize] = Then::CopyOver;
    rules[EXECUTE_OUT as usize][b'd' as usize] = Then::Stay;
    rules[EXECUTE_OUT as usize][b'c' as usize] = Then::Stay;
    rules[EXECUTE_OUT as usize][b'C' as usize] = Then::CopyOver;
    rules[CLOSE as usize][b'3' as usize] = Then::Pop;
    rules[CALL as usize][b'V' as usize] = Then::Stay;
    rules
}

pub(super) static RULES: [[Then; 128]; 32] = rules();
