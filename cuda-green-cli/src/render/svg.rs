//! Pictures of measured latencies, as SVG.

#[cfg(feature = "embed")]
pub mod rates;

use std::ops::Range;

use plotters::{
    coord::{
        Shift,
        ranged1d::{KeyPointHint, NoDefaultFormatting, ValueFormatter},
    },
    prelude::*,
};

use super::{
    duration::{duration, whole},
    page::printable_line,
};

/// The distribution of one set-up's latencies.
pub struct Curve {
    pub name: String,
    /// The latencies at evenly spaced percentiles, the last of which is the largest.
    pub nanoseconds: Vec<f64>,
}

impl Curve {
    /// Makes the curve of percentiles in microseconds.
    pub fn of_us(name: String, percentiles: &[f64]) -> Self {
        let nanoseconds = percentiles.iter().map(|us| us * 1e3).collect();
        Self { name, nanoseconds }
    }
}

const SIZE: (u32, u32) = (960, 420);
/// The width of the legend, which names the curves.
const LEGEND: u32 = 330;
/// The colours of Okabe and Ito, which people with every kind of colour vision can tell apart.
const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(0, 158, 115),
    RGBColor(213, 94, 0),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
];
const TEXT: RGBColor = RGBColor(60, 60, 60);
const WARNING: RGBColor = RGBColor(200, 0, 0);

/// The percentiles that the axis names, as shares, with their names.
const LABELS: [(f64, &str); 7] = [
    (0.0, "0"),
    (0.5, "50"),
    (0.75, "75"),
    (0.9, "90"),
    (0.95, "95"),
    (0.99, "99"),
    (1.0, "max"),
];

/// The axis of shares from 0 to 1. It gives the slowest tenth of the latencies as much room as the nine before, and
/// the slowest hundredth as much as the nine before that: a linear axis would hide both.
struct Percentiles;

impl Percentiles {
    /// The largest share with a place of its own; beyond it stands the maximum.
    const LAST: f64 = 0.9975;

    /// Returns a share's distance from the axis's start.
    fn place(share: f64) -> f64 {
        -(1.0 - share.clamp(0.0, Self::LAST)).log10()
    }
}

impl Ranged for Percentiles {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, share: &f64, (start, end): (i32, i32)) -> i32 {
        let along = Self::place(*share) / Self::place(1.0);
        start + (f64::from(end - start) * along).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        LABELS.map(|(share, _)| share).to_vec()
    }

    fn range(&self) -> Range<f64> {
        0.0..1.0
    }
}

impl ValueFormatter<f64> for Percentiles {
    fn format(share: &f64) -> String {
        let named = LABELS.iter().find(|(named, _)| named == share);
        named
            .map(|(_, name)| (*name).to_owned())
            .unwrap_or_default()
    }
}

/// The content of a picture.
pub struct Picture<'a> {
    pub title: &'a str,
    /// The subject of the percentiles, in the plural.
    pub of: &'a str,
    /// A note on the figures.
    pub note: Option<&'a str>,
    /// The reason why the figures mean nothing, if they do not.
    pub caveat: Option<&'a str>,
    pub curves: &'a [Curve],
}

/// Draws the latency, on a logarithmic axis, at each percentile.
pub fn latencies(picture: &Picture<'_>) -> anyhow::Result<String> {
    let mut svg = String::new();
    draw(&mut svg, picture).map_err(|error| anyhow::anyhow!("drawing: {error}"))?;
    Ok(svg)
}

fn draw(svg: &mut String, picture: &Picture<'_>) -> Result<(), Box<dyn std::error::Error>> {
    let &Picture { curves, of, .. } = picture;
    let all = || curves.iter().flat_map(|curve| &curve.nanoseconds).copied();
    // Whole powers of ten around the latencies; without finite ones, any will do.
    let power = |latency: f64| latency.clamp(1.0, 1e12).log10();
    let finite = || all().filter(|latency| latency.is_finite()).map(power);
    let least = finite().fold(12.0, f64::min).floor();
    let most = finite().fold(least, f64::max).floor() + 1.0;
    let range = 10f64.powf(least)..10f64.powf(most);
    let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let font = |size: u32| ("sans-serif", size).into_font().color(&TEXT);
    let mut chart = ChartBuilder::on(&root)
        .caption(printable_line(picture.title), font(18))
        .margin(16)
        .margin_right(LEGEND)
        .x_label_area_size(44)
        .y_label_area_size(72)
        .build_cartesian_2d(Percentiles, range.log_scale())?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(RGBColor(225, 225, 225))
        .axis_style(RGBColor(160, 160, 160))
        .label_style(font(13))
        .x_desc(format!("percentile of the {of}"))
        .y_desc("latency (log scale)")
        .x_labels(LABELS.len())
        .y_label_formatter(&|nanoseconds| whole(*nanoseconds))
        .draw()?;
    let coloured = || curves.iter().zip(COLOURS.iter().cycle());
    for (index, (curve, colour)) in coloured().enumerate() {
        // The others are compared with the first, so it must show beneath a curve that lies on it.
        let width = if index == 0 { 7 } else { 2 };
        let last = curve.nanoseconds.len() as f64;
        let points = (1u32..)
            .zip(&curve.nanoseconds)
            .map(|(step, latency)| (f64::from(step) / last, latency.max(1.0)));
        chart.draw_series(LineSeries::new(points, colour.stroke_width(width)))?;
    }
    // The slowest is at the top, as in the chart.
    let mut entries: Vec<_> = coloured().collect();
    entries.sort_by(|(one, _), (other, _)| other.at(0.99).total_cmp(&one.at(0.99)));
    let entries = entries.into_iter().map(|(curve, colour)| {
        let [p50, p99] = [0.5, 0.99].map(|share| duration(curve.at(share)));
        (&*curve.name, format!("p50 {p50}, p99 {p99}"), colour)
    });
    let notes = [(picture.note, TEXT), (picture.caveat, WARNING)];
    legend(&root, entries, &notes)?;
    root.present()?;
    Ok(())
}

/// Draws the names of curves, with what is said of them, and notes: beside the chart, every corner of which has lines.
fn legend<'a>(
    root: &DrawingArea<SVGBackend<'_>, Shift>,
    entries: impl Iterator<Item = (&'a str, String, &'a RGBColor)>,
    notes: &[(Option<&str>, RGBColor)],
) -> Result<(), Box<dyn std::error::Error>> {
    let font = |size: u32, colour| ("sans-serif", size).into_font().color(colour);
    let (x, mut y) = (SIZE.0 as i32 - LEGEND as i32 + 24, 70);
    for (name, figures, colour) in entries {
        root.draw(&Rectangle::new([(x, y), (x + 22, y + 5)], colour.filled()))?;
        for (text, y, size) in [(name, y - 5, 13), (&figures, y + 11, 12)] {
            let text = printable_line(text);
            root.draw(&Text::new(text, (x + 32, y), font(size, &TEXT)))?;
        }
        y += 46;
    }
    for (note, colour) in notes {
        if let Some(note) = note {
            let note = (*note).to_owned();
            root.draw(&Text::new(note, (x, y + 4), font(13, colour)))?;
            y += 20;
        }
    }
    Ok(())
}

impl Curve {
    /// Returns the latency at or below which this share of the requests lies.
    fn at(&self, share: f64) -> f64 {
        let rank = (self.nanoseconds.len() as f64 * share).ceil() as usize;
        let index = rank.max(1) - 1;
        self.nanoseconds.get(index).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_curve_is_drawn_and_named() {
        let curve = |name: &str, latency: f64| Curve {
            name: name.into(),
            nanoseconds: (1..=200)
                .map(|step| (latency + f64::from(step)) * 1e3)
                .collect(),
        };
        let curves = [curve("alone", 200.0), curve("beside <a> flood", 9_000.0)];
        let svg = latencies(&Picture {
            note: Some("One"),
            caveat: Some("SIMULATED"),
            ..picture(&curves)
        })
        .unwrap();
        assert_eq!(svg.matches("<polyline").count() - mesh(&svg), 2);
        assert!(svg.contains("alone") && svg.contains("beside &lt;a&gt; flood"));
        assert!(svg.contains("p50 300 µs, p99 398 µs") && svg.contains("p50 9.10 ms"));
        assert!(svg.contains("One") && svg.contains("SIMULATED"));
        assert!(svg.contains("percentile of the pairs") && svg.contains("1 ms"));
        // The names of the axis stand on lines of their own.
        for (_, name) in LABELS {
            assert_eq!(
                svg.lines().filter(|line| *line == name).count(),
                1,
                "{name}"
            );
        }
    }

    #[test]
    fn what_xml_forbids_is_drawn_by_its_number() {
        let curves = [Curve {
            name: "x\u{1}\u{fffe}\n".into(),
            nanoseconds: vec![1.0],
        }];
        let svg = latencies(&Picture {
            title: "GPU\u{1b}[2J",
            ..picture(&curves)
        })
        .unwrap();
        assert!(
            svg.contains("GPU\\u{1b}[2J") && svg.contains("x\\u{1}\\u{fffe}\\n"),
            "{svg}"
        );
        assert!(!svg.contains(|c: char| c.is_control() && c != '\n'));
    }

    /// Counts the lines of the axes, which are thinner than those of curves.
    fn mesh(svg: &str) -> usize {
        svg.split("<polyline")
            .skip(1)
            .filter(|line| line.contains("stroke-width=\"1\""))
            .count()
    }

    fn picture(curves: &[Curve]) -> Picture<'_> {
        Picture {
            title: "Latency",
            of: "pairs",
            note: None,
            caveat: None,
            curves,
        }
    }

    #[test]
    fn whatever_the_figures_are_they_are_drawn() {
        let lists = [
            vec![],
            vec![0.0],
            vec![-1.0, 5.0],
            vec![1e-300, 1e308],
            vec![f64::MAX, f64::MIN],
            vec![f64::NAN, f64::INFINITY, f64::NEG_INFINITY],
        ];
        let curve = |nanoseconds: Vec<f64>| Curve {
            name: String::new(),
            nanoseconds,
        };
        let all: Vec<Curve> = lists.clone().into_iter().map(curve).collect();
        let each = lists.map(|list| vec![curve(list)]);
        for curves in each.into_iter().chain([vec![], all]) {
            let svg = latencies(&picture(&curves)).unwrap();
            assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        }
    }
}
