//! Rows as a console answers them.
//!
//! Owns: columns, values, and how both are written. Columns are text or whole numbers: that is all
//! there is in PgBouncer's answers, and all exporters read.

use std::ops::Range;

use wire::message::build::{self, Column};

/// Rows shown at most. As many clients as a process of the usual size has.
const ROWS_MAX: usize = 10_000;

/// Object ids of PostgreSQL's types.
const TEXT: u32 = 25;
const INT8: u32 = 20;

/// What a column holds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Holds {
    Text,
    Number,
}

/// One value.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Cell {
    Text(String),
    Number(i64),
    Null,
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<i64> for Cell {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

impl From<u64> for Cell {
    fn from(number: u64) -> Self {
        Self::Number(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<u32> for Cell {
    fn from(number: u32) -> Self {
        Self::Number(number.into())
    }
}

impl From<usize> for Cell {
    fn from(number: usize) -> Self {
        Self::Number(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl<T: Into<Cell>> From<Option<T>> for Cell {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

/// Columns and rows.
#[derive(Clone, Debug)]
pub(super) struct Table {
    columns: &'static [(&'static str, Holds)],
    rows: Vec<Vec<Cell>>,
    left_out: usize,
}

impl Table {
    pub(super) fn new(columns: &'static [(&'static str, Holds)]) -> Self {
        Self {
            columns,
            rows: Vec::new(),
            left_out: 0,
        }
    }

    /// Adds a row; above the limit it is only counted.
    pub(super) fn add<const N: usize>(&mut self, row: [Cell; N]) {
        debug_assert_eq!(row.len(), self.columns.len());
        if self.rows.len() < ROWS_MAX {
            self.rows.push(row.into());
        } else {
            self.left_out += 1;
        }
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Appends what says which columns there are, in these formats (none: text; one: all; else one
    /// each).
    pub(super) fn describe(&self, formats: &[i16], out: &mut Vec<u8>) {
        let columns = self.columns.iter().enumerate();
        let columns = columns.map(|(at, (name, holds))| Column {
            name,
            type_id: match holds {
                Holds::Text => TEXT,
                Holds::Number => INT8,
            },
            size: match holds {
                Holds::Text => -1,
                Holds::Number => 8,
            },
            format: format(formats, at),
        });
        build::row_description(columns, out);
    }

    /// Appends some of the rows.
    pub(super) fn rows(&self, range: Range<usize>, formats: &[i16], out: &mut Vec<u8>) {
        for row in self.rows.get(range).unwrap_or_default() {
            let values = row.iter().enumerate().map(|(at, cell)| match cell {
                Cell::Null => None,
                Cell::Text(text) => Some(text.clone().into_bytes()),
                Cell::Number(number) if format(formats, at) == 1 => {
                    Some(number.to_be_bytes().to_vec())
                }
                Cell::Number(number) => Some(number.to_string().into_bytes()),
            });
            build::data_row(values, out);
        }
    }

    /// Says so when there are more rows than are shown.
    pub(super) fn note(&self, out: &mut Vec<u8>) {
        if self.left_out > 0 {
            let text = format!("{} more rows are not shown", self.left_out);
            super::notice(&text, out);
        }
    }

    /// How many columns.
    pub(super) fn width(&self) -> usize {
        self.columns.len()
    }
}

fn format(formats: &[i16], at: usize) -> i16 {
    match formats {
        [] => 0,
        [all] => *all,
        each => each.get(at).copied().unwrap_or_default(),
    }
}
