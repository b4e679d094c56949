//! Pictures of a latency by the rate of requests, as SVG.

use plotters::prelude::*;

use super::{COLOURS, LEGEND, SIZE, TEXT, WARNING, legend};
use crate::render::{duration::whole, page::printable_line};

/// One set-up's latency at each rate.
pub struct RateCurve {
    pub name: String,
    /// What the legend says of it.
    pub note: String,
    /// Rates a second, in order, and nanoseconds.
    pub points: Vec<(f64, f64)>,
}

/// The content of a picture.
pub struct RatePicture<'a> {
    pub title: &'a str,
    /// The meaning of the rates.
    pub rates: &'a str,
    /// The meaning of the latencies.
    pub latencies: &'a str,
    /// A latency in nanoseconds that a line marks.
    pub bound: f64,
    pub note: &'a str,
    /// The reason why the figures mean nothing, if they do not.
    pub caveat: Option<&'a str>,
    pub curves: &'a [RateCurve],
}

/// Draws the latency, on a logarithmic axis, at each rate.
pub fn by_rate(picture: &RatePicture<'_>) -> anyhow::Result<String> {
    let mut svg = String::new();
    draw(&mut svg, picture).map_err(|error| anyhow::anyhow!("drawing: {error}"))?;
    Ok(svg)
}

/// Returns a rate that an axis can show.
fn rate(rate: f64) -> f64 {
    if rate.is_finite() {
        rate.clamp(0.0, 1e12)
    } else {
        0.0
    }
}

/// Returns a latency that an axis can show.
fn latency(nanoseconds: f64) -> f64 {
    if nanoseconds.is_finite() {
        nanoseconds.clamp(1.0, 1e12)
    } else {
        1.0
    }
}

fn draw(svg: &mut String, picture: &RatePicture<'_>) -> Result<(), Box<dyn std::error::Error>> {
    let curves = picture.curves;
    let points = || curves.iter().flat_map(|curve| curve.points.iter().copied());
    let most = points().map(|(x, _)| rate(x)).fold(1.0, f64::max);
    // From the power of ten below the fastest to the next above the slowest.
    let bound = latency(picture.bound);
    let powers = || {
        points()
            .map(|(_, y)| latency(y))
            .chain([bound])
            .map(f64::log10)
    };
    let low = 10f64.powf(powers().fold(12.0, f64::min).floor());
    let high = 10f64.powf(powers().fold(0.0, f64::max).floor() + 1.0);
    let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let font = |size: u32| ("sans-serif", size).into_font().color(&TEXT);
    let mut chart = ChartBuilder::on(&root)
        .caption(printable_line(picture.title), font(18))
        .margin(16)
        .margin_right(LEGEND)
        .x_label_area_size(44)
        .y_label_area_size(72)
        .build_cartesian_2d(0.0..most * 1.03, (low..high).log_scale())?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(RGBColor(225, 225, 225))
        .axis_style(RGBColor(160, 160, 160))
        .label_style(font(13))
        .x_desc(picture.rates)
        .y_desc(picture.latencies)
        .x_labels(8)
        .x_label_formatter(&|rate| in_thousands(*rate))
        .y_label_formatter(&|nanoseconds| whole(*nanoseconds))
        .draw()?;
    let ends = [(0.0, bound), (most * 1.03, bound)];
    chart.draw_series(LineSeries::new(
        ends,
        RGBColor(120, 120, 120).stroke_width(1),
    ))?;
    let coloured = || curves.iter().zip(COLOURS.iter().cycle());
    for (curve, colour) in coloured() {
        let points = || curve.points.iter().map(|(x, y)| (rate(*x), latency(*y)));
        chart.draw_series(LineSeries::new(points(), colour.stroke_width(2)))?;
        chart.draw_series(points().map(|point| Circle::new(point, 3, colour.filled())))?;
    }
    // The slowest is at the top, as in the chart.
    let mut entries: Vec<_> = coloured().collect();
    entries.sort_by(|(one, _), (other, _)| other.first().total_cmp(&one.first()));
    let entries = entries.into_iter();
    let entries = entries.map(|(curve, colour)| (&*curve.name, curve.note.clone(), colour));
    let bound = format!("The grey line: {}.", whole(bound));
    let notes = [
        (Some(&*bound), TEXT),
        (Some(picture.note), TEXT),
        (picture.caveat, WARNING),
    ];
    legend(&root, entries, &notes)?;
    root.present()?;
    Ok(())
}

impl RateCurve {
    /// Returns the latency at the lowest rate.
    fn first(&self) -> f64 {
        self.points.first().map_or(f64::INFINITY, |(_, y)| *y)
    }
}

/// Writes 25000 as 25 k.
fn in_thousands(rate: f64) -> String {
    match rate {
        ..1000.0 => format!("{rate:.0}"),
        _ => format!("{} k", (rate / 100.0).round() / 10.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(curves: &[RateCurve]) -> String {
        by_rate(&RatePicture {
            title: "A query",
            rates: "queries a second",
            latencies: "p99",
            bound: 5e6,
            note: "One",
            caveat: Some("SIMULATED"),
            curves,
        })
        .unwrap()
    }

    fn curve(points: &[(f64, f64)]) -> RateCurve {
        RateCurve {
            name: "two <plain> streams".to_owned(),
            note: "at 1 k".to_owned(),
            points: points.to_vec(),
        }
    }

    #[test]
    fn every_rate_is_drawn_and_every_curve_named() {
        let svg = picture(&[curve(&[(1e3, 2e5), (2e4, 3e6)]), curve(&[(1e3, 9e6)])]);
        assert_eq!(svg.matches("<circle").count(), 3);
        assert!(svg.contains("two &lt;plain&gt; streams") && svg.contains("The grey line: 5 ms."));
        assert!(svg.contains("5 k") && svg.contains("10 ms") && svg.contains("SIMULATED"));
    }

    #[test]
    fn whatever_the_figures_are_they_are_drawn() {
        let strange = [
            0.0,
            -1.0,
            1e-300,
            1e308,
            f64::NAN,
            f64::INFINITY,
            f64::NEG_INFINITY,
        ];
        for one in strange {
            for other in strange {
                let svg = picture(&[curve(&[(one, other)]), curve(&[])]);
                assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
            }
        }
    }
}
