//! Ids in messages, tables and labels.

use std::fmt::Debug;

/// Returns an id for messages, tables and labels of metrics: a string as it is, and any other kind as its `Debug`
/// shows it.
///
/// Ids offer only `Debug`, which puts a string into quotation marks; so an output that is one quoted string is taken
/// for a string. Where that has characters that are not printable, it stays as `Debug` shows it: messages must not
/// contain line breaks or control sequences of a terminal.
pub(super) fn label(id: &(impl Debug + ?Sized)) -> String {
    let shown = format!("{id:?}");
    unquoted(&shown).unwrap_or(shown)
}

/// Returns the printable string whose `Debug` output this is, if there is one.
fn unquoted(shown: &str) -> Option<String> {
    let inner = shown.strip_prefix('"')?.strip_suffix('"')?;
    let mut string = String::with_capacity(inner.len());
    let mut characters = inner.chars();
    while let Some(character) = characters.next() {
        string.push(match character {
            '"' => return None, // the string ended: there is more than one
            '\\' => characters
                .next()
                .filter(|escaped| matches!(escaped, '"' | '\\'))?,
            plain => plain,
        });
    }
    Some(string)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::label;

    #[derive(Debug)]
    #[allow(dead_code)] // shown only
    enum Id {
        Serving,
        Numbered(u32),
        Named(&'static str),
    }

    struct Odd(&'static str);

    impl std::fmt::Debug for Odd {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str(self.0)
        }
    }

    #[test]
    fn strings_are_bare_and_all_else_is_as_debug_shows_it() {
        assert_eq!(label("serving"), "serving");
        assert_eq!(label(&"everything else"), "everything else");
        assert_eq!(label(&String::from("été")), "été");
        assert_eq!(label(&Arc::<str>::from(r#"a "b" \c"#)), r#"a "b" \c"#);
        assert_eq!(label(""), "");
        assert_eq!(label(&Id::Serving), "Serving");
        assert_eq!(label(&Id::Numbered(7)), "Numbered(7)");
        assert_eq!(label(&Id::Named("a")), r#"Named("a")"#);
        assert_eq!(label(&("a", "b")), r#"("a", "b")"#);
        assert_eq!(label(&7), "7");
        for odd in [r#""a" and "b""#, "\"", "\"a", "a\"", r#""a\""#, ""] {
            assert_eq!(label(&Odd(odd)), odd);
        }
    }

    #[test]
    fn a_string_that_is_not_printable_stays_escaped() {
        assert_eq!(label("a\nb"), r#""a\nb""#);
        assert_eq!(label("\u{1b}[31m"), r#""\u{1b}[31m""#);
    }

    proptest! {
        #[test]
        fn two_strings_never_look_the_same(one in "[ab\"\\\\\n]{0,5}", other in "[ab\"\\\\\n]{0,5}") {
            // But for one that looks like another's escapes, quotation marks included.
            let like_debug = |string: &str| string.starts_with('"') && string.ends_with('"');
            prop_assume!(one != other && !like_debug(&one) && !like_debug(&other));
            prop_assert_ne!(label(&one), label(&other));
        }
    }
}
