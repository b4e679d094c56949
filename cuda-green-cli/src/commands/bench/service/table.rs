//! The figures as text, in 80 columns.

use super::figures::{OpenRow, Row, ServiceFigures};
use crate::{
    commands::bench::{goal, run::Figures},
    render::{duration::duration, page::printable_line},
};

impl Figures for ServiceFigures {
    fn table(&self) -> String {
        let mut table = self.setting();
        table += &format!(
            "\n{:<40} {:>8} {:>8} {:>8} {:>5} {:>5}\n",
            "one caller", "p50", "p99", "max", "kept", "/ own"
        );
        grouped(&self.one_caller, beside, one_caller, &mut table);
        table += &format!(
            "\n{:<16} {:>8} {:>8} {:>8} {:>10} {:>12} {:>8}\n",
            "open loop, q/s", "p50", "p99", "p99.9", "in 5 ms/s", "late, p99", "max"
        );
        grouped(&self.open_loop, |row| row.row.name(), open_loop, &mut table);
        table += "\nhighest rate with a p99 within 5 ms, alone and beside matrix products\n";
        for row in &self.within_bound {
            let rate = match row.per_s {
                0.0 => format!("none from {:.0}/s on", row.lowest_per_s),
                rate => format!("{rate:.0}/s"),
            };
            table += &format!("{:<42} {rate:>24}\n", row.placement.name());
        }
        table + &self.elastic() + &self.several_gpus() + &goal::table(&self.goals)
    }
}

impl ServiceFigures {
    fn setting(&self) -> String {
        let setting = &self.setting;
        let mut text = format!(
            "{} in {}, texts of {:.1} tokens; {} and {} SMs; {} senders; {:.0} s\n\n",
            printable_line(&setting.model),
            printable_line(&setting.precision),
            setting.tokens_of_text,
            setting.partition_sms,
            setting.rest_sms,
            setting.senders,
            setting.seconds
        );
        for row in &self.capacity {
            let name = format!("capacity, {}", row.placement.name());
            text += &format!("{name:<42} {:>16.0} texts/s\n", row.texts_per_s);
        }
        for row in &self.floods {
            let name = format!("{} alone, {}", row.flood.name(), row.flood.unit());
            let clock = row.readings.map(|readings| {
                format!(
                    ", {:.0} MHz, {:.0} W",
                    readings.sm_clock_mhz, readings.watts
                )
            });
            text += &format!(
                "{name:<42} {:>9} {:>9}{}\n",
                number(row.whole_gpu_per_s),
                number(row.rest_per_s),
                clock.unwrap_or_default()
            );
        }
        text
    }

    fn elastic(&self) -> String {
        let Some(elastic) = &self.elastic else {
            return String::new();
        };
        if let Some(reason) = &elastic.off {
            return format!("\nnot elastic: {}\n", printable_line(reason));
        }
        let per_s = number(elastic.bulk_without_queries_per_s);
        let mut table = format!(
            "\n{:<42} {per_s:>9}\n",
            "elastic, bulk without queries, texts/s"
        );
        for (name, times) in [
            ("elastic, first query after a pause", &elastic.first),
            ("elastic, queries beside bulk", &elastic.usual),
        ] {
            if let Some(times) = times {
                let [p50, p99] = [times.p50_us, times.p99_us].map(time);
                table += &format!("{name:<42} p50 {p50}, p99 {p99}\n");
            }
        }
        table
    }

    fn several_gpus(&self) -> String {
        if self.several_gpus.is_empty() {
            return String::new();
        }
        let mut table = format!(
            "\n{:<8} {:>14} {:>14} {:>10} {:>10}\n",
            "GPUs", "bulk, texts/s", "queries/s", "beside:p50", "p99"
        );
        for row in &self.several_gpus {
            let [p50, p99] = [row.queries.p50_us, row.queries.p99_us].map(time);
            table += &format!(
                "{:<8} {:>14} {:>14} {p50:>10} {p99:>10}\n",
                row.gpus,
                number(row.bulk_per_s),
                number(row.queries_per_s)
            );
        }
        table
    }
}

/// Writes rows under headings, each of which is written once for the rows that have it.
fn grouped<R>(rows: &[R], heading: fn(&R) -> String, line: fn(&R) -> String, table: &mut String) {
    let mut last = None;
    for row in rows {
        let own = heading(row);
        if last.as_ref() != Some(&own) {
            *table += &format!("{own}\n");
            last = Some(own);
        }
        *table += &line(row);
    }
}

fn beside(row: &Row) -> String {
    match row.flood {
        Some(flood) => format!("beside {}", flood.name()),
        None => "without a flood".to_owned(),
    }
}

fn one_caller(row: &Row) -> String {
    let times = &row.latencies;
    let ratio = |ratio: Option<f64>| ratio.map_or("–".to_owned(), |ratio| format!("{ratio:.2}"));
    let ratios = row.ratios.as_ref();
    format!(
        " {:<39} {:>8} {:>8} {:>8} {:>5} {:>5}\n",
        row.placement.name(),
        time(times.p50_us),
        time(times.p99_us),
        time(Some(times.max_us)),
        ratio(ratios.and_then(|ratios| ratios.background_kept)),
        ratio(ratios.and_then(|ratios| ratios.p99_to_partition)),
    )
}

fn open_loop(row: &OpenRow) -> String {
    let times = &row.row.latencies;
    format!(
        "  {:<14} {:>8} {:>8} {:>8} {:>10.0} {:>12} {:>8}\n",
        format!("{:.0}", row.offered_per_s),
        time(times.p50_us),
        time(times.p99_us),
        time(times.p999_us),
        row.within_5_ms_per_s,
        time(Some(row.lateness_p99_us)),
        time(Some(row.lateness_max_us)),
    )
}

fn time(microseconds: Option<f64>) -> String {
    microseconds.map_or("–".to_owned(), |us| duration(us * 1e3))
}

fn number(number: f64) -> String {
    match number {
        ..100.0 => format!("{number:.1}"),
        ..1e5 => format!("{number:.0}"),
        _ => format!("{:.0} k", number / 1e3),
    }
}
