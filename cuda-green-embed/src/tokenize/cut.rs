//! Cutting of overlong texts before they are tokenised.
//!
//! A text of a megabyte has 200,000 tokens, of which a model takes the first 256. To tokenise only as much as is needed,
//! the cut must leave these as they are: it falls where no word is cut and enough tokens stand before it for certain.
//!
//! BERT's tokeniser makes at least one token of each word that has an ASCII letter or digit, which no step removes, and
//! of each Chinese character, which is a word of its own. A word of other characters may vanish, such as one of controls.
//! Words end at each ASCII space: it is never removed, and never composed with what follows. A text without such places
//! is not cut.

/// The places where texts may be cut.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cut {
    /// Whether texts may be cut at spaces: BERT's own steps, and no added token with a space in it.
    pub(super) at_spaces: bool,
    /// Whether texts may be cut behind a Chinese character.
    pub(super) at_chinese: bool,
}

/// The bytes a token, below which a text is not worth a look.
const SHORT: usize = 16;

impl Cut {
    /// Returns the start of a text that has the same first tokens, `tokens` of them, as the whole.
    pub(super) fn cut(self, text: &str, tokens: usize) -> &str {
        if !self.at_spaces || text.len() <= tokens.saturating_mul(SHORT) {
            return text;
        }
        let mut certain = 0;
        let mut counted = false;
        for (index, character) in text.char_indices() {
            match character {
                ' ' | '\t' | '\n' | '\r' => {
                    if certain >= tokens {
                        return text.get(..index).unwrap_or(text);
                    }
                    counted = false;
                }
                '\u{4e00}'..='\u{9fff}' if self.at_chinese => {
                    certain += 1;
                    if certain >= tokens {
                        return text.get(..index + character.len_utf8()).unwrap_or(text);
                    }
                    counted = false;
                }
                _ if !counted && character.is_ascii_alphanumeric() => {
                    certain += 1;
                    counted = true;
                }
                _ => {}
            }
        }
        text
    }
}
