//! Paths and modules of one Rust file, from its tokens, so that the inside of macros counts too.

use std::collections::BTreeSet;

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// A module as its file has it.
#[derive(Debug, Default)]
pub struct Scanned {
    /// Modules declared here, with their content where it stands here too.
    pub modules: Vec<Declared>,
    pub paths: Vec<Found>,
    /// Items defined here, by name.
    pub items: BTreeSet<String>,
}

#[derive(Debug)]
pub struct Declared {
    pub name: String,
    /// Whether only tests compile it.
    pub is_test: bool,
    pub content: Option<Scanned>,
}

/// A path that stands in the code.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    pub segments: Vec<String>,
    /// The name that a `use` gives it; `*` for all that is in it.
    pub bound: Option<String>,
    pub is_test: bool,
    pub is_macro: bool,
}

/// Returns the content of a file.
pub fn scan(text: &str) -> Scanned {
    let mut scanned = Scanned::default();
    read(&tokens(text), false, &mut scanned);
    scanned
}

/// Returns all identifiers of a file.
pub fn words(text: &str) -> BTreeSet<String> {
    fn collect(tokens: TokenStream, words: &mut BTreeSet<String>) {
        for token in tokens {
            match token {
                TokenTree::Ident(ident) => drop(words.insert(ident.to_string())),
                TokenTree::Group(group) => collect(group.stream(), words),
                _ => {}
            }
        }
    }
    let mut words = BTreeSet::new();
    collect(text.parse().unwrap(), &mut words);
    words
}

fn tokens(text: &str) -> Vec<TokenTree> {
    let stream: TokenStream = text.parse().unwrap();
    stream.into_iter().collect()
}

fn inside(group: &proc_macro2::Group) -> Vec<TokenTree> {
    group.stream().into_iter().collect()
}

fn word(token: Option<&TokenTree>) -> Option<String> {
    match token {
        Some(TokenTree::Ident(ident)) => Some(ident.to_string()),
        _ => None,
    }
}

fn is_punct(token: Option<&TokenTree>, punct: char) -> bool {
    matches!(token, Some(TokenTree::Punct(found)) if found.as_char() == punct)
}

/// Returns whether `::` stands at a place.
fn is_colons(tokens: &[TokenTree], at: usize) -> bool {
    is_punct(tokens.get(at), ':') && is_punct(tokens.get(at + 1), ':')
}

/// Returns whether an attribute's inside is `cfg(test)` or `cfg(all(.., test, ..))`.
fn is_cfg_test(attribute: &[TokenTree]) -> bool {
    let arguments = |tokens: &[TokenTree]| match tokens.get(1) {
        Some(TokenTree::Group(group)) => inside(group),
        _ => Vec::new(),
    };
    let has_test = |tokens: &[TokenTree]| {
        let mut parts = tokens.split(|token| is_punct(Some(token), ','));
        parts.any(|part| part.len() == 1 && word(part.first()).is_some_and(|name| name == "test"))
    };
    if word(attribute.first()).is_none_or(|name| name != "cfg") {
        return false;
    }
    let condition = arguments(attribute);
    let is_all = word(condition.first()).is_some_and(|name| name == "all");
    has_test(&condition) || (is_all && has_test(&arguments(&condition)))
}

/// Reads tokens of a module. What follows `#[cfg(test)]`, up to the end of that item, is a test's.
fn read(tokens: &[TokenTree], within_test: bool, into: &mut Scanned) {
    let mut at = 0;
    let mut is_test = within_test;
    while at < tokens.len() {
        let next = tokens.get(at + 1);
        match &tokens[at] {
            TokenTree::Punct(punct) if punct.as_char() == '#' => {
                if let Some(TokenTree::Group(group)) = next
                    && group.delimiter() == Delimiter::Bracket
                {
                    is_test |= is_cfg_test(&inside(group));
                    at += 1;
                }
            }
            TokenTree::Punct(punct) if punct.as_char() == ';' => is_test = within_test,
            TokenTree::Group(group) => {
                read(&inside(group), is_test, into);
                if group.delimiter() == Delimiter::Brace {
                    is_test = within_test;
                }
            }
            TokenTree::Ident(ident) => {
                let name = ident.to_string();
                let named = word(next);
                match (name.as_str(), next) {
                    // A visibility is no import.
                    ("pub", Some(TokenTree::Group(group)))
                        if group.delimiter() == Delimiter::Parenthesis =>
                    {
                        at += 1;
                    }
                    ("mod", Some(TokenTree::Ident(child))) => {
                        at += 2;
                        let content = match tokens.get(at) {
                            Some(TokenTree::Group(group)) => {
                                let mut content = Scanned::default();
                                read(&inside(group), is_test, &mut content);
                                Some(content)
                            }
                            _ => None,
                        };
                        into.modules.push(Declared {
                            name: child.to_string(),
                            is_test,
                            content,
                        });
                        is_test = within_test;
                    }
                    // Not `impl Trait + use<'_>`.
                    ("use", Some(_)) if !is_punct(next, '<') => {
                        let end = tokens[at..].iter().position(|t| is_punct(Some(t), ';'));
                        let end = end.map_or(tokens.len(), |length| at + length);
                        let used = Used { is_test };
                        used.read(&tokens[at + 1..end], &[], &mut into.paths);
                        at = end;
                        is_test = within_test;
                    }
                    (
                        "struct" | "enum" | "trait" | "fn" | "type" | "const" | "static" | "union",
                        Some(TokenTree::Ident(_)),
                    ) => {
                        into.items.extend(named);
                        at += 1;
                    }
                    _ => at = path(tokens, at, is_test, into),
                }
            }
            _ => {}
        }
        at += 1;
    }
}

/// Reads a path in the middle of code, if one begins at a place; returns the place of its last token.
fn path(tokens: &[TokenTree], start: usize, is_test: bool, into: &mut Scanned) -> usize {
    let follows_path = start >= 2 && is_colons(tokens, start - 2);
    let mut segments = vec![tokens[start].to_string()];
    let mut at = start;
    while is_colons(tokens, at + 1)
        && let Some(segment) = word(tokens.get(at + 3))
    {
        segments.push(segment);
        at += 3;
    }
    if segments.len() > 1 && !follows_path {
        into.paths.push(Found {
            segments,
            bound: None,
            is_test,
            is_macro: is_punct(tokens.get(at + 1), '!'),
        });
    }
    at
}

/// A `use`.
struct Used {
    is_test: bool,
}

impl Used {
    /// Reads a tree of names, all of which begin with those before it.
    fn read(&self, tokens: &[TokenTree], before: &[String], into: &mut Vec<Found>) {
        for tree in tokens.split(|token| is_punct(Some(token), ',')) {
            let mut segments = before.to_vec();
            let mut bound = None;
            let mut at = 0;
            while let Some(token) = tree.get(at) {
                match token {
                    TokenTree::Ident(ident) if *ident == "as" => {
                        bound = word(tree.get(at + 1));
                        at += 1;
                    }
                    TokenTree::Ident(ident) if *ident == "self" && !segments.is_empty() => {}
                    TokenTree::Ident(ident) => segments.push(ident.to_string()),
                    TokenTree::Punct(punct) if punct.as_char() == '*' => {
                        bound = Some("*".to_owned());
                    }
                    TokenTree::Group(group) => {
                        self.read(&inside(group), &segments, into);
                        segments.clear();
                    }
                    _ => {}
                }
                at += 1;
            }
            let Some(last) = segments.last().cloned() else {
                continue;
            };
            into.push(Found {
                segments,
                bound: bound.or(Some(last)),
                is_test: self.is_test,
                is_macro: false,
            });
        }
    }
}
