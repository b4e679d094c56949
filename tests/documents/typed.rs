//! What the documents have people type, word by word.

use crate::document::prose;

/// A command of a document.
pub struct Typed {
    /// The file and the line.
    pub place: String,
    pub text: String,
    /// In a block, and not in the middle of a sentence.
    pub in_block: bool,
}

impl Typed {
    /// Its variables, and its words; where a shell writes what it prints is none of them.
    pub fn parts(&self) -> (Vec<(String, String)>, Vec<String>) {
        let mut variables = Vec::new();
        let mut words = Vec::new();
        for word in words_of(&self.text) {
            match word.split_once('=') {
                Some((name, value)) if words.is_empty() && is_variable(name) => {
                    variables.push((name.to_owned(), value.to_owned()));
                }
                // What follows is the shell's.
                _ if word.starts_with('>') => break,
                _ => words.push(word),
            }
        }
        (variables, words)
    }
}

fn is_variable(name: &str) -> bool {
    name.chars()
        .all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
}

/// Splits at spaces outside single quotes, as a shell does.
fn words_of(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = None;
    let mut quoted = false;
    for c in text.chars() {
        match c {
            '\'' => {
                quoted = !quoted;
                word.get_or_insert_with(String::new);
            }
            c if c.is_whitespace() && !quoted => words.extend(word.take()),
            c => word.get_or_insert_with(String::new).push(c),
        }
    }
    words.extend(word);
    words
}

/// Every command of every document, but for the program's outputs that trycmd compares.
pub fn typed() -> Vec<Typed> {
    let mut all = Vec::new();
    for document in prose() {
        for block in &document.blocks {
            // A line that ends with a backslash goes on in the next.
            let text = block.text.replace("\\\n", "");
            for (line, text) in (block.line..).zip(text.lines()) {
                let text = match &*block.language {
                    "sh" => text,
                    "console" if document.path == "cuda-green-cli/README.md" => continue,
                    "console" => match text.strip_prefix("$ ") {
                        Some(text) => text,
                        None => continue,
                    },
                    _ => continue,
                };
                let text = text.split(" # ").next().unwrap_or_default();
                for text in text
                    .split("&&")
                    .map(str::trim)
                    .filter(|text| !text.is_empty())
                {
                    all.push(Typed {
                        place: format!("{}:{line}", document.path),
                        text: text.to_owned(),
                        in_block: true,
                    });
                }
            }
        }
        for code in &document.codes {
            let one = Typed {
                place: format!("{}:{}", document.path, code.line),
                text: code.text.clone(),
                in_block: false,
            };
            let (_, words) = one.parts();
            let program = words.first().map_or("", |word| &**word);
            if words.len() > 1 && matches!(program, "cargo" | "cuda-green")
                || program.starts_with("./")
            {
                all.push(one);
            }
        }
    }
    all
}
