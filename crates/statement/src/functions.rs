//! What the functions of `pg_catalog` do to a session.
//!
//! Owns: the list of those that leave session and database as they were (`functions/harmless.txt`, sorted) and
//! of those that do not, or that are worth knowing ([`SPECIAL`]). Together they are all functions
//! of PostgreSQL 15 and 18; `tests/real_postgres.rs` holds them to that, so that somebody looks at each
//! new one. Not in either list: the `RI_FKey_…` family, whose names have capitals and which are
//! triggers that cannot be called.

use crate::Effects;

/// What a call of a name, with `pg_catalog` as its schema or without one, means.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Known {
    Harmless,
    Special(Effects),
    No,
}

/// It runs a text, in which anything can stand.
const RUNS_TEXT: Effects = Effects::RUNS.with(Effects::UNNAMED);

/// Sorted. What each does by its name alone; `set_config` and `current_setting` are looked at
/// more closely where they are called.
const SPECIAL: &[(&str, Effects)] = &[
    ("binary_upgrade_add_sub_rel_state", Effects::LOAD),
    ("binary_upgrade_create_empty_extension", Effects::LOAD),
    ("binary_upgrade_logical_slot_has_caught_up", Effects::LOAD),
    ("binary_upgrade_replorigin_advance", Effects::LOAD),
    ("binary_upgrade_set_missing_value", Effects::LOAD),
    ("binary_upgrade_set_next_array_pg_type_oid", Effects::LOAD),
    ("binary_upgrade_set_next_heap_pg_class_oid", Effects::LOAD),
    ("binary_upgrade_set_next_heap_relfilenode", Effects::LOAD),
    ("binary_upgrade_set_next_index_pg_class_oid", Effects::LOAD),
    ("binary_upgrade_set_next_index_relfilenode", Effects::LOAD),
    (
        "binary_upgrade_set_next_multirange_array_pg_type_oid",
        Effects::LOAD,
    ),
    (
        "binary_upgrade_set_next_multirange_pg_type_oid",
        Effects::LOAD,
    ),
    ("binary_upgrade_set_next_pg_authid_oid", Effects::LOAD),
    ("binary_upgrade_set_next_pg_enum_oid", Effects::LOAD),
    ("binary_upgrade_set_next_pg_tablespace_oid", Effects::LOAD),
    ("binary_upgrade_set_next_pg_type_oid", Effects::LOAD),
    ("binary_upgrade_set_next_toast_pg_class_oid", Effects::LOAD),
    ("binary_upgrade_set_next_toast_relfilenode", Effects::LOAD),
    ("binary_upgrade_set_record_init_privs", Effects::LOAD),
    ("brin_summarize_new_values", Effects::TOUCHES),
    ("brin_summarize_range", Effects::TOUCHES),
    ("current_setting", Effects::NONE),
    ("currval", Effects::READS_SEQUENCE),
    ("cursor_to_xml", RUNS_TEXT),
    ("cursor_to_xmlschema", RUNS_TEXT),
    ("database_to_xml", RUNS_TEXT),
    ("database_to_xml_and_xmlschema", RUNS_TEXT),
    ("database_to_xmlschema", RUNS_TEXT),
    ("lastval", Effects::READS_SEQUENCE),
    ("lo_creat", Effects::GROWS),
    ("lo_create", Effects::GROWS),
    ("lo_from_bytea", Effects::GROWS),
    ("lo_import", Effects::GROWS),
    ("lo_put", Effects::GROWS),
    ("lowrite", Effects::GROWS),
    ("nextval", Effects::WRITES),
    ("pg_advisory_lock", Effects::ADVISORY),
    ("pg_advisory_lock_shared", Effects::ADVISORY),
    ("pg_advisory_unlock", Effects::ADVISORY),
    ("pg_advisory_unlock_all", Effects::ADVISORY),
    ("pg_advisory_unlock_shared", Effects::ADVISORY),
    ("pg_backup_start", Effects::LOAD),
    ("pg_backup_stop", Effects::LOAD),
    ("pg_copy_logical_replication_slot", Effects::LOAD),
    ("pg_copy_physical_replication_slot", Effects::LOAD),
    ("pg_create_logical_replication_slot", Effects::LOAD),
    ("pg_create_physical_replication_slot", Effects::LOAD),
    ("pg_logical_slot_get_binary_changes", Effects::LOAD),
    ("pg_logical_slot_get_changes", Effects::LOAD),
    ("pg_logical_slot_peek_binary_changes", Effects::LOAD),
    ("pg_logical_slot_peek_changes", Effects::LOAD),
    ("pg_prepared_statement", Effects::SHOWS_PREPARED),
    ("pg_replication_origin_session_reset", Effects::LOAD),
    ("pg_replication_origin_session_setup", Effects::LOAD),
    ("pg_replication_origin_xact_reset", Effects::LOAD),
    ("pg_replication_origin_xact_setup", Effects::LOAD),
    ("pg_try_advisory_lock", Effects::ADVISORY),
    ("pg_try_advisory_lock_shared", Effects::ADVISORY),
    ("query_to_xml", RUNS_TEXT),
    ("query_to_xml_and_xmlschema", RUNS_TEXT),
    ("query_to_xmlschema", RUNS_TEXT),
    ("schema_to_xml", RUNS_TEXT),
    ("schema_to_xml_and_xmlschema", RUNS_TEXT),
    ("schema_to_xmlschema", RUNS_TEXT),
    ("set_config", Effects::SETTINGS),
    ("setseed", Effects::SEED),
    ("setval", Effects::WRITES),
    ("table_to_xml", RUNS_TEXT),
    ("table_to_xml_and_xmlschema", RUNS_TEXT),
    ("table_to_xmlschema", RUNS_TEXT),
    ("ts_rewrite", RUNS_TEXT),
    ("ts_stat", RUNS_TEXT),
];

/// Functions to the grammar of PostgreSQL 16 and later, and no functions by that name in
/// `pg_catalog`: names of users' functions before.
const LATER_SYNTAX: &[&str] = &[
    "json",
    "json_array",
    "json_arrayagg",
    "json_exists",
    "json_objectagg",
    "json_query",
    "json_scalar",
    "json_serialize",
    "json_table",
    "json_value",
    "merge_action",
];

/// Looks a name up; `folded` says whether it stood without quotes, so that case does not count.
pub(crate) fn find(name: &[u8], folded: bool) -> Known {
    let mut slot = hash(name);
    while SLOTS[slot] != 0 {
        let index = usize::from(SLOTS[slot]) - 1;
        let (known, effects) = match index.checked_sub(HARMLESS_COUNT) {
            None => (harmless(index), Known::Harmless),
            Some(index) => {
                let (known, effects) = SPECIAL[index];
                (known.as_bytes(), Known::Special(effects))
            }
        };
        let same = match folded {
            true => known.eq_ignore_ascii_case(name),
            false => known == name,
        };
        if same {
            return effects;
        }
        slot = (slot + 1) % SLOT_COUNT;
    }
    match LATER_SYNTAX
        .iter()
        .any(|later| folded && later.as_bytes().eq_ignore_ascii_case(name))
    {
        true => Known::Harmless,
        false => Known::No,
    }
}

/// Whether [`crate::read`] takes a call by this name (as `pg_proc` has it), without a schema, for
/// a function of `pg_catalog`. A user's function of such a name can be called unseen, since
/// PostgreSQL chooses by argument types and `search_path`, and because not every version has
/// every one of them.
pub fn is_catalog_function(name: &str) -> bool {
    find(name.as_bytes(), false) != Known::No || LATER_SYNTAX.contains(&name)
}

/// The functions of `pg_catalog` that may leave a session different, or read what is only its own
/// (`currval`): whatever calls one of them without showing it is to be looked into.
pub fn lasting_functions() -> impl Iterator<Item = &'static str> {
    let counts = Effects::LASTING.with(Effects::READS_SEQUENCE);
    let lasting = SPECIAL
        .iter()
        .filter(move |(_, effects)| effects.intersects(counts));
    lasting.map(|(name, _)| *name)
}

/// One name a line, sorted, each line ended.
const HARMLESS: &[u8] = include_bytes!("functions/harmless.txt");
const HARMLESS_COUNT: usize = lines(HARMLESS);
/// Where each line begins, and the end of the last.
static STARTS: [u16; HARMLESS_COUNT + 1] = starts();
/// A power of two, less than half full.
const SLOT_COUNT: usize = 8192;
/// Index of a name plus one: first those of the file, then [`SPECIAL`].
static SLOTS: [u16; SLOT_COUNT] = slots();

fn harmless(index: usize) -> &'static [u8] {
    let (from, end) = (usize::from(STARTS[index]), usize::from(STARTS[index + 1]));
    HARMLESS.get(from..end - 1).unwrap_or_default()
}

const fn hash(name: &[u8]) -> usize {
    // FNV-1a.
    let mut hash = 0x811c_9dc5_u32;
    let mut i = 0;
    while i < name.len() {
        hash = (hash ^ (name[i].to_ascii_lowercase() as u32)).wrapping_mul(0x0100_0193);
        i += 1;
    }
    (hash ^ (hash >> 15)) as usize % SLOT_COUNT
}

const fn lines(text: &[u8]) -> usize {
    let (mut count, mut i) = (0, 0);
    while i < text.len() {
        count += (text[i] == b'\n') as usize;
        i += 1;
    }
    count
}

const fn starts() -> [u16; HARMLESS_COUNT + 1] {
    assert!(HARMLESS.len() <= u16::MAX as usize, "positions fit");
    let mut starts = [0; HARMLESS_COUNT + 1];
    let (mut line, mut i) = (0, 0);
    while i < HARMLESS.len() {
        if HARMLESS[i] == b'\n' {
            line += 1;
            starts[line] = (i + 1) as u16;
        }
        i += 1;
    }
    starts
}

const fn slots() -> [u16; SLOT_COUNT] {
    let mut slots = [0; SLOT_COUNT];
    let starts = starts();
    let mut index = 0;
    while index < HARMLESS_COUNT + SPECIAL.len() {
        let name = if index < HARMLESS_COUNT {
            let (_, from) = HARMLESS.split_at(starts[index] as usize);
            from.split_at((starts[index + 1] - starts[index] - 1) as usize)
                .0
        } else {
            SPECIAL[index - HARMLESS_COUNT].0.as_bytes()
        };
        let mut slot = hash(name);
        while slots[slot] != 0 {
            slot = (slot + 1) % SLOT_COUNT;
        }
        index += 1;
        slots[slot] = index as u16;
    }
    slots
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_found_and_no_other() {
        let text = str::from_utf8(HARMLESS).unwrap();
        assert!(text.ends_with('\n') && text.lines().is_sorted());
        assert!(SPECIAL.is_sorted_by_key(|(name, _)| name));
        for name in text.lines() {
            assert_eq!(find(name.as_bytes(), false), Known::Harmless, "{name}");
            assert_eq!(find(name.to_uppercase().as_bytes(), true), Known::Harmless);
            assert_eq!(find(name.to_uppercase().as_bytes(), false), Known::No);
        }
        for (name, effects) in SPECIAL {
            assert_eq!(find(name.as_bytes(), true), Known::Special(*effects));
            assert!(is_catalog_function(name) && !text.lines().any(|line| line == *name));
        }
        for name in [
            "",
            "lowe",
            "lowerr",
            "my_function",
            "pg_advisory_locks",
            "\u{fc}pper",
        ] {
            assert_eq!(find(name.as_bytes(), true), Known::No, "{name}");
            assert!(!is_catalog_function(name));
        }
    }

    #[test]
    fn what_changes_a_session_is_listed_for_those_who_look_into_definitions() {
        let lasting: Vec<_> = lasting_functions().collect();
        for name in [
            "set_config",
            "pg_advisory_lock",
            "setseed",
            "lastval",
            "query_to_xml",
        ] {
            assert!(lasting.contains(&name), "{name}");
        }
        assert!(!lasting.contains(&"nextval") && !lasting.contains(&"current_setting"));
    }
}
