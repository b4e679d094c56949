//! A page of text for people: within the terminal's width and never wider than 80 columns, without trailing
//! blanks, ended by one line break.

use std::{
    fmt::Display,
    io::{self, IsTerminal},
    path::Path,
};

use cuda_green::CudaDevice;

use super::{
    output,
    style::{BOLD, YELLOW},
};

/// The widest text, and the width in a pipe.
const WIDEST: usize = 80;
/// The width that tables need; a narrower terminal breaks lines itself.
const NARROWEST: usize = 40;

/// Returns the number of columns for text on this stream.
pub fn width(stream: &impl IsTerminal) -> usize {
    if stream.is_terminal() {
        textwrap::termwidth().clamp(NARROWEST, WIDEST)
    } else {
        WIDEST
    }
}

/// Text that grows line by line.
pub struct Page {
    width: usize,
    text: String,
}

impl Page {
    /// Returns an empty page for standard output.
    pub fn new() -> Self {
        Self::of_width(width(&io::stdout()))
    }

    /// Returns an empty page of this number of columns.
    pub fn of_width(width: usize) -> Self {
        let text = String::new();
        Self { width, text }
    }

    /// Returns the number of columns of a line.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Adds a paragraph.
    pub fn line(&mut self, text: impl Display) {
        self.hanging("", "", text);
    }

    /// Adds a paragraph that begins with a label; its further lines begin with an indent.
    pub fn hanging(&mut self, label: &str, indent: &str, text: impl Display) {
        let text = format!("{label}{text}");
        for line in wrapped(&text, self.width, indent).lines() {
            self.text.push_str(line.trim_end());
            self.text.push('\n');
        }
    }

    /// Adds an empty line.
    pub fn gap(&mut self) {
        self.text.push('\n');
    }

    /// Returns the text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Prints the page to standard output.
    pub fn print(&self) -> anyhow::Result<()> {
        output::print(&self.text)
    }
}

/// Returns a heading that says which device and driver this is, and whether it is simulated.
pub fn heading(device: &CudaDevice) -> String {
    let simulated = if device.driver().is_simulated() {
        format!("\n{YELLOW}SIMULATED: no GPU is behind this{YELLOW:#}")
    } else {
        String::new()
    };
    let heading = described(device) + &simulated;
    wrapped(&heading, width(&io::stdout()), "  ")
}

/// Returns the name, the size and the driver of a device.
pub fn described(device: &CudaDevice) -> String {
    let driver = device.driver();
    let (major, minor) = device.properties().compute_capability;
    format!(
        "{BOLD}{}{BOLD:#}: {} SMs, compute capability {major}.{minor}, CUDA {} from {}",
        printable_line(device.name()),
        device.properties().multiprocessor_count,
        driver.version(),
        printable_line(driver.source()),
    )
}

/// Returns the line that says that a file was written.
pub fn wrote(path: &Path) -> String {
    format!("wrote {}", printable_line(&path.display().to_string()))
}

/// Makes text from outside harmless, such as the name of a device. Control characters could move a terminal's cursor
/// and are invalid in XML, so they are shown by their numbers. Line breaks stay.
pub fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\n' => shown.push('\n'),
            '\u{fffe}' | '\u{ffff}' => shown.extend(character.escape_unicode()),
            character if character.is_control() => shown.extend(character.escape_default()),
            character => shown.push(character),
        }
    }
    shown
}

/// Makes text harmless, and shows line breaks by their escapes too.
pub fn printable_line(text: &str) -> String {
    printable(text).replace('\n', "\\n")
}

/// Breaks lines between words. Words longer than a line, such as paths, and text between backticks, such as commands,
/// stay whole so that they can be copied.
pub fn wrapped(text: &str, width: usize, indent: &str) -> String {
    const HARD_SPACE: &str = "\u{a0}";
    let options = textwrap::Options::new(width)
        .subsequent_indent(indent)
        .break_words(false)
        .word_splitter(textwrap::WordSplitter::NoHyphenation);
    let line = |line: &str| {
        let parts = line.split('`').enumerate();
        let held: Vec<String> = parts
            .map(|(index, part)| match index % 2 {
                0 => part.to_owned(),
                _ => part.replace(' ', HARD_SPACE),
            })
            .collect();
        textwrap::fill(&held.join("`"), &options).replace(HARD_SPACE, " ")
    };
    text.split('\n').map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_broken_between_words_and_have_no_trailing_blank() {
        let mut page = Page::of_width(20);
        page.line("one two three four five  ");
        page.gap();
        page.hanging("good  ", "      ", "a finding in several words");
        page.line("/a/path/that/is/longer/than/a/line");
        assert_eq!(
            page.text(),
            "one two three four\nfive\n\ngood  a finding in\n      several words\n\
             /a/path/that/is/longer/than/a/line\n"
        );
    }

    #[test]
    fn what_is_no_character_to_be_read_is_shown_by_its_number() {
        let text = "GPU\u{1b}[2J\u{0}\t\u{7f}\u{9b}\u{ffff} µ\n2";
        let shown = "GPU\\u{1b}[2J\\u{0}\\t\\u{7f}\\u{9b}\\u{ffff} µ\n2";
        assert_eq!(printable(text), shown);
        assert_eq!(printable_line(text), shown.replace('\n', "\\n"));
        assert_eq!(printable("NVIDIA H200"), "NVIDIA H200");
        // Every character, against those that XML 1.0 allows.
        let all: String = ('\0'..=char::MAX).collect();
        let forbidden = |c: char| {
            c < ' ' && !"\t\n\r".contains(c)
                || ('\u{7f}'..='\u{9f}').contains(&c)
                || c == '\u{fffe}'
                || c == '\u{ffff}'
        };
        assert!(all.contains(forbidden) && !printable(&all).contains(forbidden));
    }

    #[test]
    fn commands_stay_whole() {
        let text = "try `one two`, or `three` or the `four five` of these";
        assert_eq!(
            wrapped(text, 14, "  "),
            "try `one two`,\n  or `three`\n  or the\n  `four five`\n  of these"
        );
        assert_eq!(wrapped("a b\nc d", 2, "- "), "a\n- b\nc\n- d");
    }

    #[test]
    fn colours_take_no_columns() {
        let mut page = Page::of_width(9);
        page.line(format!("{0}one two{0:#} three", crate::render::style::RED));
        let plain = anstream::adapter::strip_str(page.text()).to_string();
        assert_eq!(plain, "one two\nthree\n");
    }
}
