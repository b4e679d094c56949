//! The committed documents, taken apart.

use std::{path::Path, process::Command, sync::OnceLock};

use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag, TagEnd};

/// The workspace's root.
pub const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// A Markdown file.
pub struct Document {
    /// From the root.
    pub path: String,
    pub text: String,
    /// What a link's `#fragment` can name, as GitHub makes it of the headings.
    pub anchors: Vec<String>,
    /// Where links and pictures lead.
    pub links: Vec<Part>,
    /// What stands in single backticks.
    pub codes: Vec<Part>,
    pub blocks: Vec<Block>,
}

/// A part of a document.
pub struct Part {
    /// From 1.
    pub line: usize,
    pub text: String,
}

/// A fenced block.
pub struct Block {
    /// The line of its first line, from 1.
    pub line: usize,
    /// What stands after the fence: `sh`, `rust,no_run`, or nothing.
    pub language: String,
    pub text: String,
}

impl Document {
    fn read(path: &str) -> Self {
        let text = std::fs::read_to_string(Path::new(ROOT).join(path)).unwrap();
        let mut document = Self::of(path, &text);
        document.text = text;
        document
    }

    /// Takes a text apart.
    pub fn of(path: &str, text: &str) -> Self {
        let mut document = Self {
            path: path.to_owned(),
            text: String::new(),
            anchors: Vec::new(),
            links: Vec::new(),
            codes: Vec::new(),
            blocks: Vec::new(),
        };
        let mut heading: Option<String> = None;
        let mut block: Option<Block> = None;
        let options = Options::ENABLE_TABLES | Options::ENABLE_STRIKETHROUGH;
        for (event, range) in Parser::new_ext(text, options).into_offset_iter() {
            let line = text[..range.start].matches('\n').count() + 1;
            let part = |text: &str| Part {
                line,
                text: text.to_owned(),
            };
            match event {
                Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
                Event::End(TagEnd::Heading(_)) => {
                    let anchor = anchor(&heading.take().unwrap_or_default());
                    let twins = document.anchors.iter().filter(|other| **other == anchor);
                    let anchor = match twins.count() {
                        0 => anchor,
                        number => format!("{anchor}-{number}"),
                    };
                    document.anchors.push(anchor);
                }
                Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                    document.links.push(part(&dest_url));
                }
                Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(language))) => {
                    block = Some(Block {
                        line: line + 1,
                        language: language.into_string(),
                        text: String::new(),
                    });
                }
                Event::End(TagEnd::CodeBlock) => document.blocks.extend(block.take()),
                Event::Code(code) => {
                    if let Some(heading) = &mut heading {
                        heading.push_str(&code);
                    }
                    document.codes.push(part(&code));
                }
                Event::Text(words) => {
                    if let Some(heading) = &mut heading {
                        heading.push_str(&words);
                    }
                    if let Some(block) = &mut block {
                        block.text.push_str(&words);
                    }
                }
                _ => {}
            }
        }
        document
    }
}

/// What GitHub makes of a heading: lower case, hyphens for spaces, and nothing but letters, digits and those.
fn anchor(heading: &str) -> String {
    let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
    let letters = heading.chars().filter(kept).collect::<String>();
    letters.to_lowercase().replace(' ', "-")
}

/// Every file of the repository that is not ignored, from its root.
pub fn files() -> &'static [String] {
    static FILES: OnceLock<Vec<String>> = OnceLock::new();
    FILES.get_or_init(|| {
        let output = Command::new("git")
            .args(["ls-files", "--cached", "--others", "--exclude-standard"])
            .current_dir(ROOT)
            .output()
            .unwrap();
        assert!(output.status.success(), "git lists no files: {output:?}");
        let list = String::from_utf8(output.stdout).unwrap();
        let there = |file: &&str| Path::new(ROOT).join(file).is_file();
        list.lines().filter(there).map(str::to_owned).collect()
    })
}

/// Every Markdown file of the repository.
pub fn documents() -> &'static [Document] {
    static DOCUMENTS: OnceLock<Vec<Document>> = OnceLock::new();
    DOCUMENTS.get_or_init(|| {
        let markdown = files().iter().filter(|file| file.ends_with(".md"));
        markdown.map(|file| Document::read(file)).collect()
    })
}

/// Those that are written for people: not the tables and outputs that programs write.
pub fn prose() -> impl Iterator<Item = &'static Document> {
    let written = |path: &str| path.ends_with("MATRIX.md") || path.contains("/tests/");
    documents().iter().filter(move |one| !written(&one.path))
}

#[test]
fn a_document_is_taken_apart() {
    let text =
        "# `a b` -- C!\n\n## x\n## x\n[one](a.md#b) and `code\nspan`\n\n```sh\ncargo x\n```\n";
    let document = Document::of("x.md", text);
    assert_eq!(document.anchors, ["a-b----c", "x", "x-1"]);
    assert_eq!(document.links[0].text, "a.md#b");
    assert_eq!(
        (&*document.codes[1].text, document.codes[1].line),
        ("code span", 5)
    );
    let block = &document.blocks[0];
    assert_eq!(
        (&*block.language, &*block.text, block.line),
        ("sh", "cargo x\n", 9)
    );
}

#[test]
fn the_documents_are_found() {
    for path in [
        "README.md",
        "CONTRIBUTING.md",
        "cuda-green/guide/observing.md",
        "cuda-green/guide/testing.md",
    ] {
        assert!(prose().any(|document| document.path == path), "{path}");
    }
}

/// Prose wraps by itself; what is in a block does not.
#[test]
fn blocks_fit_a_terminal() {
    let mut wide = Vec::new();
    for document in prose() {
        for block in &document.blocks {
            let widest = match &*block.language {
                "sh" | "text" | "toml" => 80,
                // What the program prints is its own tests' concern.
                "console" => continue,
                // rustfmt's width.
                _ => 100,
            };
            for (line, text) in (block.line..).zip(block.text.lines()) {
                let width = text.chars().count();
                // The hidden lines of an example nobody sees.
                if width > widest && !text.starts_with("# ") {
                    let path = &document.path;
                    wide.push(format!(
                        "{path}:{line}: {width} columns of {widest}: {text}"
                    ));
                }
            }
        }
    }
    assert!(wide.is_empty(), "{}", wide.join("\n"));
}
