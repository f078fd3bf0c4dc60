//! Words of texts, wherever in them and in whatever case they are written.
//!
//! Owns: finding one, also within a longer word, a comment or a constant: whoever asks wants to know what may be said, at the
//! price of a pass over the bytes. Does not own: what statements a text has and what they do (`statement`).

/// Where a text has a word, each time. An empty one is nowhere.
pub(crate) fn places<'a>(text: &'a [u8], word: &'a [u8]) -> impl Iterator<Item = usize> + 'a {
    let pieces = text.windows(word.len().max(1)).enumerate();
    pieces.filter_map(|(at, piece)| piece.eq_ignore_ascii_case(word).then_some(at))
}

/// Whether a text has a word.
pub(crate) fn mentions(text: &[u8], word: &[u8]) -> bool {
    places(text, word).next().is_some()
}

/// The same, not within a longer one: `prepare` is not in `pg_prepared_statements`.
pub(crate) fn has_word(text: &[u8], word: &[u8]) -> bool {
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_' || !byte.is_ascii();
    places(text, word).any(|at| {
        let before = text[..at].last();
        let behind = text.get(at + word.len());
        !before.is_some_and(is_part) && !behind.is_some_and(is_part)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_found_in_any_case_and_within_others() {
        let found =
            |text: &str, word: &str| places(text.as_bytes(), word.as_bytes()).collect::<Vec<_>>();
        assert_eq!(found("set Role; reset ROLES", "role"), [4, 16]);
        assert_eq!(found("aaa", "aa"), [0, 1]);
        assert_eq!(found("role", "roles"), Vec::<usize>::new());
        assert_eq!(found("", "role"), Vec::<usize>::new());
        assert_eq!(found("role", ""), Vec::<usize>::new());
        assert!(mentions(b"DISCARD Plans", b"plans") && !mentions(b"plan", b"plans"));
        assert!(has_word(b"PREPARE a", b"prepare") && has_word(b"'x;prepare'", b"prepare"));
        assert!(
            !has_word(b"pg_prepared_statements", b"prepare") && !has_word(b"_prepare", b"prepare")
        );
    }
}
