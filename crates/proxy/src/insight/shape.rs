//! From a text to its shape, at the least cost.
//!
//! Owns: one value for each shape in use, the bytes that all of them take, and a short memory of texts
//! whose shape is known. Does not own: what a shape is (`statement::normalise`).

use std::{
    cell::Cell,
    hash::{BuildHasher, RandomState},
    rc::Rc,
};

use statement::{Encoding, Excerpt, normalise, outline};

use super::{Sqlstate, top::Top};

/// Texts whose shape is remembered, for each tenant: those of parameterised statements come again
/// and again, and so do others but for their constants. A power of two; each takes 16 bytes.
const TEXTS_MAX: usize = 128;
/// Of a longer text, only so much is looked at. What makes statements longer is data.
pub(super) const TEXT_BYTES_MAX: usize = 8 * 1024;
/// What a shape takes beside its text: its own fields, places in tables, its times.
const SHAPE_OVERHEAD: usize = 256;

/// A statement without its constants.
#[derive(Debug)]
pub(crate) struct Shape {
    pub(super) number: u64,
    text: Box<str>,
    /// PostgreSQL made sense of it once.
    is_understood: Cell<bool>,
    bytes: Rc<ShapeBytes>,
}

/// What the shapes of a worker take together.
#[derive(Debug)]
pub(crate) struct ShapeBytes {
    used: Cell<usize>,
    max: usize,
}

impl ShapeBytes {
    pub(crate) fn new(max: usize) -> Rc<Self> {
        Rc::new(Self {
            used: Cell::new(0),
            max,
        })
    }
}

impl Shape {
    /// `None` when there is no room.
    pub(super) fn new(number: u64, text: &[u8], bytes: &Rc<ShapeBytes>) -> Option<Rc<Self>> {
        let text: Box<str> = String::from_utf8_lossy(text).into();
        let used = bytes.used.get() + text.len() + SHAPE_OVERHEAD;
        if used > bytes.max {
            return None;
        }
        bytes.used.set(used);
        Some(Rc::new(Self {
            number,
            text,
            is_understood: Cell::new(false),
            bytes: bytes.clone(),
        }))
    }

    /// Notes how it ended: in a text that is no SQL, or names what is not there, somebody may have
    /// forgotten the quotes around a constant.
    #[inline]
    pub(super) fn ended(&self, error: Option<Sqlstate>) {
        if !self.is_understood.get() {
            // syntax_error, undefined_column
            let is_doubtful = matches!(error.as_ref(), Some(b"42601" | b"42703"));
            self.is_understood.set(!is_doubtful);
        }
    }

    /// What may be shown.
    pub(super) fn text(&self) -> String {
        if self.is_understood.get() {
            return self.text.to_string();
        }
        match self.text.split_once(' ') {
            Some((first, _)) => format!("{first} …"),
            // One word is one that begins statements.
            None => self.text.to_string(),
        }
    }
}

impl Drop for Shape {
    fn drop(&mut self) {
        let used = &self.bytes.used;
        used.set(used.get() - self.text.len() - SHAPE_OVERHEAD);
    }
}

/// Texts whose shape is known, and the place to make one.
#[derive(Debug, Default)]
pub(super) struct Texts {
    known: Vec<Known>,
    hasher: RandomState,
    outline: Vec<u8>,
    shape: Vec<u8>,
}

/// A text by the hash of its outline, or of itself: should two ever share it, one is counted as the other.
#[derive(Clone, Debug, Default)]
struct Known {
    hash: u64,
    shape: Option<Rc<Shape>>,
}

impl Texts {
    #[inline]
    pub(super) fn shape(
        &mut self,
        text: &[u8],
        is_whole: bool,
        encoding: Encoding,
        top: &Top,
        bytes: &Rc<ShapeBytes>,
    ) -> Option<Rc<Shape>> {
        let (text, is_whole) = match text.get(..TEXT_BYTES_MAX) {
            Some(part) if part.len() < text.len() => (part, false),
            _ => (text, is_whole),
        };
        let is_outlined = is_whole && outline(text, encoding, &mut self.outline);
        let key = if is_outlined { &self.outline } else { text };
        let hash = self.hasher.hash_one((key, is_whole, encoding));
        let place = hash as usize % TEXTS_MAX;
        if let Some(known) = self.known.get(place)
            && known.hash == hash
            && known.shape.is_some()
        {
            return known.shape.clone();
        }
        let excerpt = Excerpt {
            bytes: text,
            is_whole,
            encoding,
        };
        let number = normalise(excerpt, &mut self.shape);
        let shape = top
            .shape(number)
            .or_else(|| Shape::new(number, &self.shape, bytes));
        if self.known.is_empty() {
            self.known = vec![Known::default(); TEXTS_MAX];
        }
        self.known[place] = Known {
            hash,
            shape: shape.clone(),
        };
        shape
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str, texts: &mut Texts, top: &Top, bytes: &Rc<ShapeBytes>) -> Option<Rc<Shape>> {
        texts.shape(text.as_bytes(), true, Encoding::AsciiSafe, top, bytes)
    }

    #[test]
    fn texts_of_one_shape_share_it_while_it_has_a_place() {
        let (mut texts, mut top, bytes) = (Texts::default(), Top::new(10), ShapeBytes::new(10_000));
        let one = of("SELECT 1", &mut texts, &top, &bytes).unwrap();
        let again = of("SELECT 1", &mut texts, &top, &bytes).unwrap();
        assert!(Rc::ptr_eq(&one, &again), "the text is known");
        let now = tokio::time::Instant::now();
        top.note(Some((&one, now)), 1, super::super::Outcome::default());
        let other = of("select 'x'", &mut texts, &top, &bytes).unwrap();
        assert!(Rc::ptr_eq(&one, &other), "the shape is known");
        drop((one, again, other, texts));
        assert!(bytes.used.get() > SHAPE_OVERHEAD);
        drop(top);
        assert_eq!(bytes.used.get(), 0, "all is given back");
    }

    #[test]
    fn what_shapes_take_is_bounded() {
        let (mut texts, top, bytes) = (Texts::default(), Top::new(10), ShapeBytes::new(2_000));
        let held: Vec<_> = (0..100)
            .map(|i| of(&format!("SELECT column_{i}"), &mut texts, &top, &bytes))
            .collect();
        assert!(bytes.used.get() <= 2_000);
        let count = held.iter().flatten().count();
        assert!(count > 5 && count < 20, "{count}");
        // A table for each tenant, of texts that nobody has: it is made by need.
        drop((held, texts));
        assert_eq!(bytes.used.get(), 0);
    }

    #[test]
    fn what_was_never_understood_is_hardly_shown() {
        let (mut texts, top, bytes) = (Texts::default(), Top::new(10), ShapeBytes::new(10_000));
        let shape = of(
            "SELECT a FROM t WHERE b = hunter2",
            &mut texts,
            &top,
            &bytes,
        )
        .unwrap();
        assert_eq!(shape.text(), "SELECT …");
        for (error, shown) in [
            (Some(b"42601"), false),
            (Some(b"42703"), false),
            (Some(b"22012"), true),
            (Some(b"42601"), true),
            (None, true),
        ] {
            shape.ended(error.copied());
            assert_eq!(shape.text().contains("hunter2"), shown, "{error:?}");
        }
        let long = format!("SELECT {}", "a, ".repeat(TEXT_BYTES_MAX));
        let shape = of(&long, &mut texts, &top, &bytes).unwrap();
        shape.ended(None);
        assert!(shape.text().ends_with('…') && shape.text().len() <= statement::SHAPE_BYTES_MAX);
    }
}
