//! Which client encodings can be read byte by byte.

/// Whether bytes below 128 always stand for themselves.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Hash)]
pub enum Encoding {
    /// They do, as in UTF-8 and everything that PostgreSQL uses on the server's side.
    AsciiSafe,
    /// They may be the second byte of a character (a backslash in SJIS): text that is not plain
    /// ASCII cannot be read without the tables, and is not.
    Overlapping,
}

impl Encoding {
    /// Of a `client_encoding` as the server reports it.
    pub fn of(client_encoding: &str) -> Self {
        // Those that PostgreSQL has for clients; pg_wchar.h, "PG_ENCODING_BE_LAST". One that is
        // not known is taken for the worse kind.
        const SAFE: [&str; 36] = [
            "SQL_ASCII",
            "UTF8",
            "UNICODE",
            "EUC_JP",
            "EUC_CN",
            "EUC_KR",
            "EUC_TW",
            "EUC_JIS_2004",
            "MULE_INTERNAL",
            "LATIN1",
            "LATIN2",
            "LATIN3",
            "LATIN4",
            "LATIN5",
            "LATIN6",
            "LATIN7",
            "LATIN8",
            "LATIN9",
            "LATIN10",
            "WIN1256",
            "WIN1258",
            "WIN866",
            "WIN874",
            "KOI8R",
            "WIN1251",
            "WIN1252",
            "ISO_8859_5",
            "ISO_8859_6",
            "ISO_8859_7",
            "ISO_8859_8",
            "WIN1250",
            "WIN1253",
            "WIN1254",
            "WIN1255",
            "WIN1257",
            "KOI8U",
        ];
        match SAFE
            .iter()
            .any(|safe| safe.eq_ignore_ascii_case(client_encoding))
        {
            true => Self::AsciiSafe,
            false => Self::Overlapping,
        }
    }
}
