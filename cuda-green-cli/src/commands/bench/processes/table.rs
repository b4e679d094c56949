//! The figures as text, in 80 columns.

use super::{
    figures::{Join, ProcessFigures, Row},
    protocol::FloodKind,
};
use crate::{
    commands::bench::{found::of_repeats, goal, run::Figures},
    render::{
        duration::duration,
        page::{printable_line, wrapped},
    },
};

impl Figures for ProcessFigures {
    fn table(&self) -> String {
        let setting = &self.setting;
        let repeats = of_repeats(setting.repeats);
        let mut table = format!("{repeats} in {:.0} s\n", setting.seconds);
        for (name, what) in [
            ("request", Some(&setting.request)),
            ("blocks", Some(&setting.blocks)),
            ("products", setting.matrix.as_ref()),
        ] {
            if let Some(what) = what {
                let line = format!("{name}: {}", printable_line(what));
                table += &format!("{}\n", wrapped(&line, 80, "  "));
            }
        }
        for (heading, flood) in [
            ("alone", None),
            ("beside blocks of 2 ms", Some(FloodKind::Blocks)),
            ("beside matrix products", Some(FloodKind::Matrix)),
        ] {
            let rows: Vec<_> = self.rows.iter().filter(|row| row.flood == flood).collect();
            if rows.is_empty() {
                continue;
            }
            table += &format!(
                "\n{heading:<30} {:>8} {:>8} {:>8} {:>6} {:>6} {:>6}\n",
                "p50", "p99", "max", "spread", "kept", "MHz"
            );
            rows.iter().for_each(|row| table += &line(row));
        }
        table += &self.join.as_ref().map(join).unwrap_or_default();
        if let Some(change) = &self.change {
            let took = duration(change.change_us.median * 1e3);
            table += &format!("\na change of the plan, both idle: {took}\n");
        }
        for (what, reasons) in [("not measured", &self.skipped), ("failed", &self.failed)] {
            for reason in reasons {
                let line = format!("{what}: {}", printable_line(reason));
                table += &format!("\n{}", wrapped(&line, 80, "  "));
            }
        }
        table + &goal::table(&self.goals)
    }

    fn verdict(&self) -> anyhow::Result<()> {
        match self.failed.as_slice() {
            [] => Ok(()),
            failed => anyhow::bail!("not measured: {}", failed.join("; ")),
        }
    }
}

fn line(row: &Row) -> String {
    let [p50, p99, max] =
        [row.p50_us.median, row.p99_us.median, row.max_us].map(|us| duration(us * 1e3));
    let kept = row.flood_kept();
    let kept = kept.map_or("–".to_owned(), |kept| format!("{kept:.2}"));
    let clock = row.readings.map(|readings| readings.sm_clock_mhz);
    let clock = clock.map_or("–".to_owned(), |clock| format!("{clock:.0}"));
    format!(
        "{:<30} {p50:>8} {p99:>8} {max:>8} {:>5.0}% {kept:>6} {clock:>6}\n",
        row.placement.name(),
        row.p99_us.spread() * 100.0
    )
}

fn join(found: &Join) -> String {
    let [join, first, create] =
        [found.join_us.median, found.first_us, found.create_us.median].map(|us| duration(us * 1e3));
    format!(
        "\na join beside a plan in force: {join}, the first {first};\n  creating the context alone: {create}\n"
    )
}
