//! The keywords that matter for reading, found by one look into a table.

/// Keywords by which statements are told apart, and those that change how a name is read.
macro_rules! words {
    ($($name:ident $text:literal,)*) => {
        #[derive(Clone, Copy, Debug, Eq, PartialEq)]
        pub(crate) enum Word {
            /// No keyword, or one without meaning here: may be a name.
            Name,
            /// A keyword that can be no function's name, and has no other meaning here.
            Reserved,
            $($name,)*
        }

        const MEANINGFUL: &[(&str, Word)] = &[$(($text, Word::$name),)*];
    };
}

words! {
    Abort "abort", All "all", Alter "alter", Analyse "analyse", Analyze "analyze", As "as",
    Atomic "atomic", Authorization "authorization", Begin "begin", By "by", Call "call",
    Case "case", Catalog "catalog", Characteristics "characteristics", Checkpoint "checkpoint",
    Close "close", Cluster "cluster", Comment "comment", Commit "commit",
    Constraints "constraints", Copy "copy", Create "create", Deallocate "deallocate",
    Declare "declare", Default "default", Delete "delete", Discard "discard",
    Distinct "distinct", Do "do", Drop "drop", Else "else", End "end", Execute "execute",
    Explain "explain", Extension "extension", False "false", Fetch "fetch", Filter "filter",
    For "for", From "from", Grant "grant", Group "group", Hold "hold", Import "import",
    Insert "insert", Into "into", Join "join", Key "key", Language "language", Listen "listen",
    Load "load", Local "local", Lock "lock", Loop "loop", Merge "merge", Move "move",
    Names "names", Nothing "nothing", Notify "notify", On "on", Operator "operator",
    Option "option", Order "order", Over "over", Partition "partition", Plans "plans",
    Prepare "prepare", Reassign "reassign", Refresh "refresh", Reindex "reindex",
    Release "release", Reset "reset", Revoke "revoke", Role "role", Rollback "rollback",
    Savepoint "savepoint", Schema "schema", Security "security", Select "select",
    Sequences "sequences", Session "session", Set "set", Show "show", Start "start",
    Table "table", Temp "temp", Temporary "temporary", Then "then", Time "time", To "to",
    Transaction "transaction", True "true", Truncate "truncate", Unlisten "unlisten",
    Update "update", Using "using", Vacuum "vacuum", Values "values", With "with", Xml "xml",
    Zone "zone",
}

/// Keywords that PostgreSQL 15 to 18 let be no function's name without quotes: the reserved ones
/// and those of the grammar's `col_name_keyword`. `kwlist.h`. The ones that only the later
/// versions have are not here: to 15 they are names ([`crate::functions`]).
const NEVER_FUNCTIONS: &[&str] = &[
    // reserved
    "all",
    "analyse",
    "analyze",
    "and",
    "any",
    "array",
    "as",
    "asc",
    "asymmetric",
    "both",
    "case",
    "cast",
    "check",
    "collate",
    "column",
    "constraint",
    "create",
    "current_catalog",
    "current_date",
    "current_role",
    "current_time",
    "current_timestamp",
    "current_user",
    "default",
    "deferrable",
    "desc",
    "distinct",
    "do",
    "else",
    "end",
    "except",
    "false",
    "fetch",
    "for",
    "foreign",
    "from",
    "grant",
    "group",
    "having",
    "in",
    "initially",
    "intersect",
    "into",
    "lateral",
    "leading",
    "limit",
    "localtime",
    "localtimestamp",
    "not",
    "null",
    "offset",
    "on",
    "only",
    "or",
    "order",
    "placing",
    "primary",
    "references",
    "returning",
    "select",
    "session_user",
    "some",
    "symmetric",
    "table",
    "then",
    "to",
    "trailing",
    "true",
    "union",
    "unique",
    "user",
    "using",
    "variadic",
    "when",
    "where",
    "window",
    "with",
    // col_name_keyword
    "between",
    "bigint",
    "bit",
    "boolean",
    "char",
    "character",
    "coalesce",
    "dec",
    "decimal",
    "exists",
    "extract",
    "float",
    "greatest",
    "grouping",
    "inout",
    "int",
    "integer",
    "interval",
    "least",
    "national",
    "nchar",
    "none",
    "normalize",
    "nullif",
    "numeric",
    "out",
    "overlay",
    "position",
    "precision",
    "real",
    "row",
    "setof",
    "smallint",
    "substring",
    "time",
    "timestamp",
    "treat",
    "trim",
    "values",
    "varchar",
    "xmlattributes",
    "xmlconcat",
    "xmlelement",
    "xmlexists",
    "xmlforest",
    "xmlnamespaces",
    "xmlparse",
    "xmlpi",
    "xmlroot",
    "xmlserialize",
    "xmltable",
];

/// `type_func_name_keyword`: may be functions, are quoted as names.
const QUOTED_TOO: &[&str] = &[
    "authorization",
    "binary",
    "collation",
    "concurrently",
    "cross",
    "current_schema",
    "freeze",
    "full",
    "ilike",
    "inner",
    "is",
    "isnull",
    "join",
    "left",
    "like",
    "natural",
    "notnull",
    "outer",
    "overlaps",
    "right",
    "similar",
    "tablesample",
    "verbose",
];

/// Keywords of some of the versions only: whether they are quoted depends on the server.
const QUOTED_BY_SOME: &[&str] = &[
    "json",
    "json_array",
    "json_arrayagg",
    "json_exists",
    "json_object",
    "json_objectagg",
    "json_query",
    "json_scalar",
    "json_serialize",
    "json_table",
    "json_value",
    "merge_action",
    "system_user",
    "xmltext",
];

/// What the keyword is, and whether it can be no function's name.
pub(crate) fn find(raw: &[u8]) -> (Word, bool) {
    let mut slot = hash(raw);
    while let Some(entry) = &SLOTS[slot] {
        if is_same(raw, entry.text.as_bytes()) {
            return (entry.word, entry.never_function);
        }
        slot = (slot + 1) % SLOT_COUNT;
    }
    (Word::Name, false)
}

/// Whether `raw` is the keyword, in any case. A keyword has only letters and `_`, which no other
/// byte of a name becomes by setting this bit: `@` and the like are none of a name.
#[inline]
fn is_same(raw: &[u8], keyword: &[u8]) -> bool {
    raw.len() == keyword.len() && raw.iter().zip(keyword).all(|(a, b)| a | 0x20 == b | 0x20)
}

/// Whether PostgreSQL quotes this name (already folded) when it shows it; `None` when that depends
/// on its version. `quote_identifier`, `ruleutils.c`.
pub(crate) fn is_quoted_when_shown(name: &str) -> Option<bool> {
    let plain = name
        .bytes()
        .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'));
    if !plain || name.starts_with(|first: char| first.is_ascii_digit()) || name.is_empty() {
        return Some(true);
    }
    match QUOTED_BY_SOME.contains(&name) {
        true => None,
        false => Some(NEVER_FUNCTIONS.contains(&name) || QUOTED_TOO.contains(&name)),
    }
}

#[derive(Clone, Copy)]
struct Entry {
    text: &'static str,
    word: Word,
    never_function: bool,
}

/// A power of two, thinly filled: most names of a statement are no keywords and should meet an
/// empty slot.
const SLOT_COUNT: usize = 1024;

static SLOTS: [Option<Entry>; SLOT_COUNT] = slots();

const fn hash(raw: &[u8]) -> usize {
    let length = raw.len();
    if length == 0 {
        return 0;
    }
    let first = (raw[0] | 0x20) as usize;
    let middle = (raw[length / 2] | 0x20) as usize;
    let last = (raw[length - 1] | 0x20) as usize;
    (length + first * 37 + middle * 11 + last * 131) % SLOT_COUNT
}

const fn slots() -> [Option<Entry>; SLOT_COUNT] {
    let mut slots = [None; SLOT_COUNT];
    let mut i = 0;
    while i < MEANINGFUL.len() {
        let (text, word) = MEANINGFUL[i];
        put(&mut slots, text, word, false);
        i += 1;
    }
    let mut i = 0;
    while i < NEVER_FUNCTIONS.len() {
        put(&mut slots, NEVER_FUNCTIONS[i], Word::Reserved, true);
        i += 1;
    }
    slots
}

/// A word of both lists keeps its meaning and is reserved as well.
const fn put(slots: &mut [Option<Entry>; SLOT_COUNT], text: &'static str, word: Word, never: bool) {
    let mut slot = hash(text.as_bytes());
    while let Some(there) = slots[slot] {
        if same(there.text.as_bytes(), text.as_bytes()) {
            slots[slot] = Some(Entry {
                never_function: there.never_function || never,
                ..there
            });
            return;
        }
        slot = (slot + 1) % SLOT_COUNT;
    }
    slots[slot] = Some(Entry {
        text,
        word,
        never_function: never,
    });
}

const fn same(a: &[u8], b: &[u8]) -> bool {
    let mut i = 0;
    while i < a.len() && i < b.len() && a[i] == b[i] {
        i += 1;
    }
    i == a.len() && i == b.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_keyword_is_found_in_any_case() {
        for (text, word) in MEANINGFUL {
            let never = NEVER_FUNCTIONS.contains(text);
            assert_eq!(find(text.as_bytes()), (*word, never), "{text}");
            assert_eq!(find(text.to_uppercase().as_bytes()), (*word, never));
        }
        for text in NEVER_FUNCTIONS {
            assert!(find(text.as_bytes()).1, "{text}");
        }
        for name in ["selects", "", "pg_class", "sElEc", "ünder", "joi", "\u{0}"] {
            assert_eq!(find(name.as_bytes()), (Word::Name, false), "{name}");
        }
    }

    #[test]
    fn the_table_is_thinly_filled() {
        let filled = SLOTS.iter().filter(|slot| slot.is_some()).count();
        assert!(filled * 3 < SLOT_COUNT, "{filled}");
    }
}
