//! A drawing of the chip: each SM with the partition that runs on it, for a terminal and as SVG.

use std::{collections::BTreeSet, fmt::Write};

use anstyle::{Ansi256Color, AnsiColor, Color, Style};

use super::{
    page::{Page, printable_line},
    style::RED,
};

/// A partition: its name, and the SMs that its blocks ran on.
pub struct Partition {
    pub name: String,
    pub sms: BTreeSet<u32>,
}

/// The SMs of a device, and the partitions that ran on them.
pub struct Chip {
    pub total: u32,
    pub partitions: Vec<Partition>,
}

/// Background colours, of the terminal's 256 and of SVG: those of Okabe and Ito.
const COLOURS: [(u8, &str); 7] = [
    (32, "#0072B2"),
    (35, "#009E73"),
    (214, "#E69F00"),
    (175, "#CC79A7"),
    (75, "#56B4E9"),
    (166, "#D55E00"),
    (227, "#F0E442"),
];
const NOBODY: &str = "#F0F0F0";
const SHARED: &str = "#FF0000";
/// SMs in a row; the two of a texture processing cluster stay side by side.
const SVG_ROW: u32 = 22;

/// The partitions that ran on an SM.
enum Owner {
    None,
    One(usize),
    Several,
}

impl Chip {
    fn owner(&self, sm: u32) -> Owner {
        let mut owners = (0..self.partitions.len()).filter(|index| {
            self.partitions
                .get(*index)
                .is_some_and(|partition| partition.sms.contains(&sm))
        });
        match (owners.next(), owners.next()) {
            (None, _) => Owner::None,
            (Some(owner), None) => Owner::One(owner),
            (Some(_), Some(_)) => Owner::Several,
        }
    }

    /// Returns the SMs on which no partition ran, and those on which several did.
    pub fn stranded_and_shared(&self) -> (BTreeSet<u32>, BTreeSet<u32>) {
        let (mut stranded, mut shared) = (BTreeSet::new(), BTreeSet::new());
        for sm in 0..self.total {
            match self.owner(sm) {
                Owner::None => _ = stranded.insert(sm),
                Owner::One(_) => {}
                Owner::Several => _ = shared.insert(sm),
            }
        }
        (stranded, shared)
    }

    /// Draws the chip row by row, a letter and a colour for each partition.
    pub fn draw(&self, page: &mut Page) {
        // The number of a row's first SM takes 6 columns, and each SM 2, of which the last needs only one.
        let fits = (page.width() as u32).saturating_sub(5) / 2;
        let row = if fits >= 32 { 32 } else { 16 };
        for first in (0..self.total).step_by(row as usize) {
            let last = self.total.min(first + row) - 1;
            let mut line = format!("{first:>4}  ");
            for sm in first..=last {
                let (style, sign) = match self.owner(sm) {
                    Owner::None => (Style::new(), '.'),
                    Owner::One(owner) => (background(owner), letter(owner)),
                    Owner::Several => (RED.invert(), '!'),
                };
                let blank = if sm == last { "" } else { " " };
                let _ = write!(line, "{style}{sign}{blank}{style:#}"); // a String takes all
            }
            page.line(line);
        }
    }

    /// Names each partition with its letter, SMs and colour.
    pub fn legend(&self, page: &mut Page) {
        let names = self.partitions.iter().map(|partition| partition.name.len());
        let longest = names.max().unwrap_or_default().max(12);
        let indent = " ".repeat(longest + 14);
        for (index, partition) in self.partitions.iter().enumerate() {
            let style = background(index);
            let label = format!(
                "{style}{} {style:#} {:<longest$}",
                letter(index),
                partition.name
            );
            let count = partition.sms.len();
            page.hanging(
                &label,
                &indent,
                format!(" {count:>4} SMs: {}", ranges(&partition.sms)),
            );
        }
        let (stranded, shared) = self.stranded_and_shared();
        if !stranded.is_empty() {
            let text = format!(
                ".  {:<longest$} {:>4} SMs: {}",
                "unused",
                stranded.len(),
                ranges(&stranded)
            );
            page.hanging("", &indent, text);
        }
        if !shared.is_empty() {
            let text = format!(
                "!  {:<longest$} {:>4} SMs: {}",
                "SHARED",
                shared.len(),
                ranges(&shared)
            );
            page.hanging("", &indent, format!("{RED}{text}{RED:#}"));
        }
    }

    /// Draws the chip as SVG, with a title and a note.
    pub fn svg(&self, title: &str, note: Option<&str>) -> String {
        const CELL: u32 = 34;
        const TOP: u32 = 56;
        const LINE: u32 = 24;
        let rows = self.total.div_ceil(SVG_ROW).max(1);
        let named = self
            .partitions
            .iter()
            .enumerate()
            .map(|(index, partition)| {
                let text = format!("{}: {} SMs", partition.name, partition.sms.len());
                (colour(index).1, text)
            });
        let mut legend: Vec<(&str, String)> = named.collect();
        let (stranded, shared) = self.stranded_and_shared();
        if !stranded.is_empty() {
            legend.push((NOBODY, format!("unused: {} SMs", stranded.len())));
        }
        if !shared.is_empty() {
            legend.push((SHARED, format!("SHARED: {} SMs", shared.len())));
        }
        legend.extend(note.map(|note| ("#FFFFFF", note.to_owned())));
        let width = SVG_ROW * CELL + 32;
        let height = TOP + rows * CELL + LINE * legend.len() as u32 + 24;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
             viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"14\">\n\
             <rect width=\"{width}\" height=\"{height}\" fill=\"#FFFFFF\"/>\n\
             <text x=\"16\" y=\"32\" font-size=\"18\" fill=\"#3C3C3C\">{}</text>\n",
            escaped(title)
        );
        for sm in 0..self.total {
            let (x, y) = (16 + sm % SVG_ROW * CELL, TOP + sm / SVG_ROW * CELL);
            let (fill, stroke) = match self.owner(sm) {
                Owner::None => (NOBODY, "#B0B0B0"),
                Owner::One(owner) => (colour(owner).1, "#FFFFFF"),
                Owner::Several => (SHARED, "#000000"),
            };
            let size = CELL - 3;
            let _ = writeln!(
                svg,
                "<rect x=\"{x}\" y=\"{y}\" width=\"{size}\" height=\"{size}\" rx=\"3\" fill=\"{fill}\" \
                 stroke=\"{stroke}\"><title>SM {sm}</title></rect>"
            );
        }
        for (line, (fill, text)) in (1..).zip(legend) {
            let y = TOP + rows * CELL + LINE * line;
            let _ = writeln!(
                svg,
                "<rect x=\"16\" y=\"{}\" width=\"14\" height=\"14\" rx=\"2\" fill=\"{fill}\" stroke=\"#B0B0B0\"/>\n\
                 <text x=\"40\" y=\"{y}\" fill=\"#3C3C3C\">{}</text>",
                y - 12,
                escaped(&text)
            );
        }
        svg + "</svg>\n"
    }
}

fn colour(index: usize) -> (u8, &'static str) {
    COLOURS[index % COLOURS.len()]
}

fn background(index: usize) -> Style {
    let background = Color::Ansi256(Ansi256Color(colour(index).0));
    Style::new()
        .bg_color(Some(background))
        .fg_color(Some(AnsiColor::Black.into()))
}

/// Returns the letter of a partition: A for the first, and A again after Z.
fn letter(index: usize) -> char {
    char::from(b'A' + (index % 26) as u8)
}

fn escaped(text: &str) -> String {
    let text = printable_line(text).replace('&', "&amp;");
    text.replace('<', "&lt;").replace('>', "&gt;")
}

/// Returns ids with their runs joined: `0 1 2 5` is `0-2 5`.
pub fn ranges(ids: &BTreeSet<u32>) -> String {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for &id in ids {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == id => *last = id,
            _ => runs.push((id, id)),
        }
    }
    let text = |&(first, last): &(u32, u32)| {
        if first == last {
            first.to_string()
        } else {
            format!("{first}-{last}")
        }
    };
    runs.iter().map(text).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chip(sms: &[&[u32]]) -> Chip {
        let partitions = sms.iter().enumerate().map(|(index, sms)| Partition {
            name: format!("<{index}>"),
            sms: sms.iter().copied().collect(),
        });
        Chip {
            total: 6,
            partitions: partitions.collect(),
        }
    }

    fn plain(chip: &Chip, width: usize) -> String {
        let mut page = Page::of_width(width);
        chip.draw(&mut page);
        chip.legend(&mut page);
        anstream::adapter::strip_str(page.text()).to_string()
    }

    #[test]
    fn every_sm_is_drawn_with_its_owner() {
        let chip = chip(&[&[0, 1, 2], &[2, 3, 5]]);
        let (stranded, shared) = chip.stranded_and_shared();
        assert_eq!((stranded, shared), ([4].into(), [2].into()));
        assert_eq!(
            plain(&chip, 80),
            "   0  A A ! B . B\n\
             A  <0>             3 SMs: 0-2\n\
             B  <1>             3 SMs: 2-3 5\n\
             .  unused          1 SMs: 4\n\
             !  SHARED          1 SMs: 2\n"
        );
        let svg = chip.svg("a & b", Some("SIMULATED"));
        assert_eq!(svg.matches("<title>SM ").count(), 6);
        assert!(svg.contains("a &amp; b") && svg.contains("&lt;1&gt;: 3 SMs"));
        assert!(svg.contains("unused: 1 SMs") && svg.contains("SHARED: 1 SMs"));
        assert!(svg.contains("SIMULATED"));
        let hostile = chip.svg("a\u{1b}[2Jb\u{0}\u{ffff}", Some("\u{8}"));
        assert!(hostile.contains("a\\u{1b}[2Jb\\u{0}\\u{ffff}"), "{hostile}");
        assert!(!hostile.contains(|c: char| c.is_control() && c != '\n'));
    }

    #[test]
    fn many_ranges_and_narrow_terminals_break_lines() {
        let sms: Vec<u32> = (0..64).step_by(2).collect();
        let mut chip = chip(&[&sms]);
        chip.total = 64;
        for width in [40, 71, 80] {
            let text = plain(&chip, width);
            assert!(text.lines().all(|line| line.len() <= width), "{text}");
            assert_eq!(text.matches('A').count(), 33, "{text}");
            assert!(text.lines().any(|line| line.ends_with(" 62")), "{text}");
        }
    }

    #[test]
    fn no_partition_is_drawn_as_well() {
        let chip = chip(&[]);
        assert_eq!(
            plain(&chip, 40),
            "   0  . . . . . .\n.  unused          6 SMs: 0-5\n"
        );
        assert!(chip.svg("", None).ends_with("</svg>\n"));
    }
}
