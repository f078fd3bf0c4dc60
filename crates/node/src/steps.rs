//! Reading the files in `sql/`, which product and isolation suite share, as named steps.

use std::sync::LazyLock;

/// One step: what is sent at once to one database.
#[derive(Debug)]
pub(crate) struct Step {
    name: &'static str,
    /// With placeholders.
    text: &'static str,
}

/// The steps of one file.
pub(crate) struct Steps(Vec<Step>);

pub(crate) static BOOTSTRAP: LazyLock<Steps> =
    LazyLock::new(|| Steps::parse(include_str!("../sql/bootstrap.sql")));
pub(crate) static TEMPLATE: LazyLock<Steps> = LazyLock::new(|| Steps::parse(TEMPLATE_TEXT));
pub(crate) static TENANT: LazyLock<Steps> =
    LazyLock::new(|| Steps::parse(include_str!("../sql/tenant.sql")));
pub(crate) static BRANCH: LazyLock<Steps> =
    LazyLock::new(|| Steps::parse(include_str!("../sql/branch.sql")));

/// What the template is made of; its hash says whether a template is up to date.
pub(crate) const TEMPLATE_TEXT: &str = include_str!("../sql/template.sql");

const MARKER: &str = "-- step: ";

impl Steps {
    fn parse(file: &'static str) -> Self {
        let mut steps = Vec::new();
        let starts: Vec<usize> = file
            .match_indices(MARKER)
            .map(|(at, _)| at)
            .filter(|at| *at == 0 || file.as_bytes()[at - 1] == b'\n')
            .collect();
        for (i, at) in starts.iter().enumerate() {
            let end = starts.get(i + 1).copied().unwrap_or(file.len());
            let section = &file[at + MARKER.len()..end];
            let (head, text) = section.split_once('\n').unwrap_or((section, ""));
            let name = head.split('|').next().unwrap_or_default().trim();
            steps.push(Step {
                name,
                text: text.trim(),
            });
        }
        Self(steps)
    }

    /// Names in the order of the file.
    pub(crate) fn names(&self) -> impl Iterator<Item = &'static str> {
        self.0.iter().map(|step| step.name)
    }

    /// The text of a step, ready to send. The files and their callers are compiled together: a step
    /// or a value that is missing is our own mistake, found by the first test that runs.
    pub(crate) fn fill(&self, name: &str, values: &[(&str, &str)]) -> String {
        let step = self
            .0
            .iter()
            .find(|step| step.name == name)
            .unwrap_or_else(|| panic!("sql/ has no step {name}"));
        let mut text = step.text.to_owned();
        for (placeholder, value) in values {
            assert!(is_ours(value), "{placeholder} is not made of our own names");
            text = text.replace(&format!("{{{placeholder}}}"), value);
        }
        text
    }
}

/// Nothing that could end a quoted text or begin a comment or another statement.
fn is_ours(value: &str) -> bool {
    value
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b"_$:+/= .-'".contains(&b))
        && (!value.contains('\'') || LOCALES.contains(&value))
        && !value.contains("--")
}

/// LOCALE clauses of `CREATE DATABASE`: the only values with quotes.
///
/// None of them changes the order of texts when the operating system is updated: `builtin` is
/// PostgreSQL's own, and `LC_COLLATE 'C'` compares bytes. The last is for systems that lack the
/// C.UTF-8 locale: the same order, but upper and lower case of ASCII only.
pub(crate) const LOCALES: [&str; 3] = [
    "LOCALE_PROVIDER builtin BUILTIN_LOCALE 'C.UTF-8' LC_COLLATE 'C' LC_CTYPE 'C'",
    "LOCALE_PROVIDER libc LC_COLLATE 'C' LC_CTYPE 'C.UTF-8'",
    "LOCALE_PROVIDER libc LC_COLLATE 'C' LC_CTYPE 'C'",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_has_a_name_and_a_text() {
        for steps in [&*BOOTSTRAP, &*TEMPLATE, &*TENANT, &*BRANCH] {
            assert!(steps.0.len() >= 3);
            for step in &steps.0 {
                assert!(!step.name.is_empty() && !step.text.is_empty(), "{step:?}");
            }
        }
    }

    #[test]
    fn all_placeholders_of_a_step_are_filled() {
        let text = TENANT.fill("open", &[("database", "x_abcdefghijkl")]);
        assert!(
            text.contains("x_abcdefghijkl_admin") && !text.contains('{'),
            "{text}"
        );
    }

    #[test]
    #[should_panic(expected = "not made of our own names")]
    fn a_value_with_a_quote_is_refused() {
        TENANT.fill("open", &[("database", "x'; DROP")]);
    }

    #[test]
    fn locales_are_accepted() {
        for locale in LOCALES {
            assert!(is_ours(locale), "{locale}");
        }
    }
}
