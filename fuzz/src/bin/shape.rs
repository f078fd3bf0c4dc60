//! Shapes of statements: nothing that stands between quotes is shown, whole or cut off anywhere, and the outline
//! of a text has its shape; nor is it the name of a table. The first byte says where it is cut.
#![no_main]

use libfuzzer_sys::fuzz_target;
use statement::{Encoding, Excerpt, SHAPE_BYTES_MAX, TABLES_MAX, normalise, outline, tables};

fuzz_target!(|bytes: &[u8]| {
    let Some((until, bytes)) = bytes.split_first() else {
        return;
    };
    let until = usize::from(*until).min(bytes.len());
    let (mut shape, mut again, mut short) = (Vec::new(), Vec::new(), Vec::new());
    for encoding in [Encoding::AsciiSafe, Encoding::Overlapping] {
        for (bytes, is_whole) in [(bytes, true), (&bytes[..until], false)] {
            let excerpt = Excerpt {
                bytes,
                is_whole,
                encoding,
            };
            let number = normalise(excerpt, &mut shape);
            assert!(shape.len() <= SHAPE_BYTES_MAX);
            // A quote that begins a constant is never shown. A quoted name may hold one.
            assert!(!shape.contains(&b'\'') || bytes.contains(&b'"'));
            assert_eq!(normalise(excerpt, &mut again), number);
            assert_eq!(shape, again);
            let found = tables(bytes, is_whole, encoding);
            assert!(found.named.len() <= TABLES_MAX && (is_whole || !found.is_all));
            let has_quote = |name: &str| name.contains('\'');
            assert!(bytes.contains(&b'"') || !found.named.iter().any(|own| has_quote(&own.0)));
            if is_whole && outline(bytes, encoding, &mut short) {
                let excerpt = Excerpt {
                    bytes: &short,
                    ..excerpt
                };
                assert_eq!(normalise(excerpt, &mut again), number);
                assert_eq!(shape, again);
            }
        }
        // What stands between quotes makes no difference.
        if !bytes.contains(&b'\'') && !bytes.contains(&b'\\') && !bytes.contains(&0) {
            let shapes = [&b"a"[..], b"secret", bytes].map(|constant| {
                let text = [b"SELECT x, '", constant, b"' FROM t"].concat();
                let excerpt = Excerpt {
                    bytes: &text,
                    is_whole: true,
                    encoding: Encoding::AsciiSafe,
                };
                let number = normalise(excerpt, &mut shape);
                (number, shape.clone())
            });
            assert_eq!(shapes[0].1, b"SELECT x, $1 FROM t");
            assert!(shapes.iter().all(|other| *other == shapes[0]));
        }
    }
});
