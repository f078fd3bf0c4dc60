//! Lists whose elements look the same are shown as their first.
//!
//! Owns: where elements of `IN (…)`, `ARRAY[…]` and the rows of `VALUES` begin and end. Does not
//! own: what an element looks like.

use super::{FOLDED, MORE, Mark, SEED, Shape, mix};
use crate::lexer::{Lexeme, Token};

/// How many lists inside lists are folded; further ones are shown in full.
const LISTS_MAX: usize = 8;

#[derive(Default)]
pub(super) struct Lists {
    open: [List; LISTS_MAX],
    count: usize,
}

#[derive(Clone, Copy, Default)]
struct List {
    kind: Kind,
    /// Of the commas between its elements.
    depth: u32,
    /// Before the comma of the element that is being read.
    mark: Mark,
    /// What the element before looks like.
    previous: Option<u64>,
    /// Others that look like it were left out.
    is_folded: bool,
}

#[derive(Clone, Copy, Default, Eq, PartialEq)]
enum Kind {
    /// Ends with its parenthesis.
    #[default]
    Enclosed,
    /// Rows of `VALUES`: each in parentheses.
    Rows,
    /// As [`Self::Rows`], behind one of them.
    BehindRow,
}

impl Lists {
    fn last(&mut self) -> Option<&mut List> {
        self.open[..self.count].last_mut()
    }

    /// At an opening parenthesis, before it is shown: it may be of the first of several rows, which
    /// it is a part of. `depth`: outside it.
    pub(super) fn rows(&mut self, before: &Lexeme<'_>, depth: u32, shape: &mut Shape<'_>) {
        if before.is_word("values") {
            self.begin(Kind::Rows, depth, shape);
        }
    }

    /// The same, or a bracket, behind it: it may enclose a list.
    pub(super) fn enclosed(
        &mut self,
        token: Token,
        before: &Lexeme<'_>,
        depth: u32,
        shape: &mut Shape<'_>,
    ) {
        if before.is_word(if token == Token::Open { "in" } else { "array" }) {
            self.begin(Kind::Enclosed, depth + 1, shape);
        }
    }

    fn begin(&mut self, kind: Kind, depth: u32, shape: &mut Shape<'_>) {
        let Some(list) = self.open.get_mut(self.count) else {
            return;
        };
        *list = List {
            kind,
            depth,
            mark: shape.mark(),
            previous: None,
            is_folded: false,
        };
        self.count += 1;
        shape.hash = SEED;
    }

    /// At a closing one, before it is shown. `depth`: inside it.
    pub(super) fn close(&mut self, depth: u32, shape: &mut Shape<'_>) {
        while let Some(list) = self.last().filter(|list| list.depth >= depth) {
            let is_own = list.kind == Kind::Enclosed && list.depth == depth;
            if list.kind != Kind::BehindRow {
                list.end_element(shape);
            }
            self.count -= 1;
            if is_own {
                break;
            }
        }
    }

    /// Behind a closing one, which ends a row. `depth`: outside it.
    pub(super) fn closed(&mut self, depth: u32, shape: &mut Shape<'_>) {
        if let Some(list) = self.last()
            && list.kind == Kind::Rows
            && list.depth == depth
        {
            list.end_element(shape);
            list.kind = Kind::BehindRow;
        }
    }

    /// At a comma, before it is shown.
    pub(super) fn comma(&mut self, depth: u32, shape: &mut Shape<'_>) {
        let Some(list) = self.last().filter(|list| list.depth == depth) else {
            return;
        };
        if list.kind == Kind::Enclosed {
            list.end_element(shape);
        }
        list.mark = shape.mark();
    }

    /// Behind a comma: the element begins.
    pub(super) fn element(&mut self, depth: u32, shape: &mut Shape<'_>) {
        let Some(list) = self.last().filter(|list| list.depth == depth) else {
            return;
        };
        shape.hash = SEED;
        if list.kind == Kind::BehindRow {
            list.kind = Kind::Rows;
        }
    }

    /// At any other token, before it is shown: behind a row, it ends the rows.
    #[inline]
    pub(super) fn other(&mut self, depth: u32) {
        if let Some(list) = self.last()
            && list.kind == Kind::BehindRow
            && list.depth == depth
        {
            self.count -= 1;
        }
    }

    /// At the end of a statement, whatever is open.
    pub(super) fn leave_all(&mut self, shape: &mut Shape<'_>) {
        while let Some(list) = self.last() {
            if list.kind != Kind::BehindRow {
                list.end_element(shape);
            }
            self.count -= 1;
        }
    }

    /// Where the text is cut off: an element that was begun is one of those that follow.
    pub(super) fn cut(&mut self, shape: &mut Shape<'_>) {
        let begun = self.open[..self.count]
            .iter_mut()
            .find(|list| list.previous.is_some() && list.kind != Kind::BehindRow);
        if let Some(list) = begun {
            shape.back_to(list.mark);
            list.fold(shape);
            self.count = 0;
        }
        self.leave_all(shape);
    }
}

impl List {
    /// The element is over: it is left out when it looks like the one before.
    fn end_element(&mut self, shape: &mut Shape<'_>) {
        let look = shape.hash;
        if self.previous == Some(look) && shape.constants > self.mark.constants {
            shape.back_to(self.mark);
            self.fold(shape);
            return;
        }
        self.previous = Some(look);
        self.is_folded = false;
        let bytes = look.to_le_bytes();
        shape.hash = bytes
            .iter()
            .fold(self.mark.hash, |hash, byte| mix(hash, *byte));
    }

    fn fold(&mut self, shape: &mut Shape<'_>) {
        if !self.is_folded {
            self.is_folded = true;
            shape.put(false, FOLDED.as_bytes());
            shape.mix(MORE);
        }
    }
}
