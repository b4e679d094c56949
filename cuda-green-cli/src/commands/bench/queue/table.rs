//! The figures as text, in 80 columns.

use super::{
    figures::{Beside, By, HostRow, Idle, QueueFigures, Row, Shape},
    goals::polling,
    times::{Found, Trips},
};
use crate::{
    commands::bench::{found::of_repeats, goal, run::Figures},
    render::{
        duration::duration,
        page::{printable_line, wrapped},
    },
};

impl Figures for QueueFigures {
    fn table(&self) -> String {
        let setting = &self.setting;
        let mut table = format!(
            "rings of {} slots, payloads up to {} bytes; {} cores; {} in {:.0} s\n",
            setting.depth,
            setting.payload_bytes,
            setting.cores,
            of_repeats(setting.repeats),
            setting.seconds
        );
        let mut last = None;
        for row in &self.rows {
            let heading = heading(&row.shape);
            if last.as_ref() != Some(&heading) {
                table += &format!(
                    "\n{heading:<48} {:>7} {:>7} {:>8} {:>6}\n",
                    "p50", "p99", "M/s", "spread"
                );
                last = Some(heading);
            }
            table += &line(row);
        }
        for row in &self.host {
            table += &host(row);
        }
        table += &self.idle.as_ref().map(idle).unwrap_or_default();
        table += &self.beside.as_ref().map(beside).unwrap_or_default();
        for skipped in &self.skipped {
            let skipped = format!("not measured: {}", printable_line(skipped));
            table += &format!("\n{}", wrapped(&skipped, 80, "  "));
        }
        table + &goal::table(&self.goals)
    }
}

fn heading(shape: &Shape) -> String {
    match shape.lanes {
        1 => shape.what.name().to_owned(),
        lanes => format!("{}, {lanes} lanes", shape.what.name()),
    }
}

fn line(row: &Row) -> String {
    let shape = &row.shape;
    let way = match shape.by {
        By::Queue => "queue",
        By::Raw => "by hand",
    };
    let warps = match shape.warps {
        0 => String::new(),
        1 => ", 1 warp".to_owned(),
        warps => format!(", {warps} warps"),
    };
    let threads = match shape.polling_threads {
        0 => String::new(),
        threads => format!(", {}", polling(threads)),
    };
    let name = format!(" {way}{warps}{threads}");
    let time = |of: fn(&Trips) -> &Found| match &row.trips {
        Some(trips) => duration(of(trips).median * 1e3),
        None => "–".to_owned(),
    };
    let spread = match (&row.m_per_s, &row.trips) {
        (Some(rate), _) => rate.spread(),
        (None, Some(trips)) => trips.p50_us.spread(),
        (None, None) => 0.0,
    };
    let rate = row.m_per_s.as_ref();
    let rate = rate.map_or("–".to_owned(), |rate| format!("{:.2}", rate.median));
    format!(
        "{name:<46} {:>9} {:>7} {rate:>8} {:>5.0}%\n",
        time(|trips| &trips.p50_us),
        time(|trips| &trips.p99_us),
        spread * 100.0
    )
}

fn host(row: &HostRow) -> String {
    let [submit, all, answered] =
        [&row.submit_ns, &row.all_ns, &row.answered_ns].map(|found| duration(found.median));
    format!(
        "\nCPU to CPU, {} future: {submit} to submit, {all} with the run,\n  {answered} with the answer\n",
        printable_line(&row.path)
    )
}

fn idle(idle: &Idle) -> String {
    let [p50, max] = [idle.first.p50_us.median, idle.first.max_us].map(|us| duration(us * 1e3));
    format!(
        "\nidle for {:.0} ms: {:.2} % of a core;\n  first task and answer p50 {p50}, most {max}\n",
        idle.idle_before_ms, idle.percent_of_a_core.median
    )
}

fn beside(found: &Beside) -> String {
    let time = |found: &Found| duration(found.median * 1e3);
    let of = |trips: &Trips| format!("p50 {}, p99 {}", time(&trips.p50_us), time(&trips.p99_us));
    format!(
        "\n{} on {} SMs: {}\n  beside {:.1} M tasks/s of another partition: {}\n",
        printable_line(&found.request),
        found.partition_sms,
        of(&found.alone),
        found.found_m_per_s.median,
        of(&found.beside)
    )
}
