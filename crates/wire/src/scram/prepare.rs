//! SASLprep (RFC 4013) as PostgreSQL and libpq do it.

use stringprep::tables;
use unicode_normalization::UnicodeNormalization;
use zeroize::Zeroizing;

/// The password in its one normal form; `None` when it is to be taken as it is, because it is
/// ASCII or because it holds what SASLprep refuses.
///
/// PostgreSQL looks for what is refused *before* normalisation, not after it as the RFC says, and
/// so differs for a few characters (`U+1F100`). Whoever computes anything else locks their owners
/// out, hence not `stringprep::saslprep`.
pub(super) fn prepare(password: &str) -> Option<Zeroizing<String>> {
    if password.is_ascii() {
        return None;
    }
    let mapped: Zeroizing<String> = Zeroizing::new(
        password
            .chars()
            .filter_map(|c| match c {
                c if tables::non_ascii_space_character(c) => Some(' '),
                c if tables::commonly_mapped_to_nothing(c) => None,
                c => Some(c),
            })
            .collect(),
    );
    let usable =
        !mapped.is_empty() && !mapped.chars().any(is_refused) && has_one_direction(&mapped);
    usable.then(|| Zeroizing::new(mapped.nfkc().collect()))
}

/// RFC 4013, sections 2.3 and 2.5.
fn is_refused(c: char) -> bool {
    tables::non_ascii_space_character(c)
        || tables::ascii_control_character(c)
        || tables::non_ascii_control_character(c)
        || tables::private_use(c)
        || tables::non_character_code_point(c)
        || tables::surrogate_code(c)
        || tables::inappropriate_for_plain_text(c)
        || tables::inappropriate_for_canonical_representation(c)
        || tables::change_display_properties_or_deprecated(c)
        || tables::tagging_character(c)
        || tables::unassigned_code_point(c)
}

/// RFC 3454, section 6: right-to-left writing stands alone, and begins and ends the text.
fn has_one_direction(text: &str) -> bool {
    let is_rtl = tables::bidi_r_or_al;
    !text.contains(is_rtl)
        || (!text.contains(tables::bidi_l) && text.starts_with(is_rtl) && text.ends_with(is_rtl))
}
