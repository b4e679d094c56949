//! The figures of what was measured.

use std::time::Duration;

use super::{
    closed_loop,
    figures::{
        BOUND, FloodAlone, OpenRow, Row, ServiceFigures, Setting, WithinBound, background_kept,
        compare,
    },
    floods::FloodKind,
    measured::Measured,
    outcome::highest_rate_within,
    placements::Home,
    turns::{Bench, SEED, set_ups},
};

/// Returns the figures of a run, without elastic lanes and goals.
pub fn report(bench: &Bench<'_>, measured: Measured) -> ServiceFigures {
    let floods: Vec<_> = bench
        .descriptions
        .iter()
        .map(|(flood, what)| {
            let whole = measured.pace(*flood, Home::Primary);
            FloodAlone {
                flood: *flood,
                what: what.clone(),
                unit: flood.unit().to_owned(),
                whole_gpu_per_s: whole.per_s,
                rest_per_s: measured.pace(*flood, Home::Rest).per_s,
                readings: whole.readings,
            }
        })
        .collect();
    let mut one_caller: Vec<Row> = measured.one_caller();
    let mut open_loop: Vec<OpenRow> = measured.open_loop();
    let within_bound = within_bound(&open_loop);
    if !bench.setup.device().driver().is_simulated() {
        compare(&mut one_caller, &floods);
        for row in &mut open_loop {
            row.background_kept = background_kept(&row.row, &floods);
        }
    }
    let [partition_sms, rest_sms] = bench.sms;
    ServiceFigures {
        setting: Setting {
            model: bench.setup.describe().name,
            precision: bench.setup.precision.name().to_owned(),
            cores: bench.setup.cores,
            partition_sms,
            rest_sms,
            texts: bench.texts.queries.len(),
            tokens_of_text: bench.texts.tokens_of_query,
            texts_of_list: bench.texts.lists.first().map_or(0, Vec::len),
            tokens_of_list_text: bench.texts.tokens_of_list_text,
            senders: bench.senders,
            on_the_way: closed_loop::ON_THE_WAY,
            arrivals: format!("Poisson, fastrand 2 (Wyrand), seeds from {SEED} on"),
            repeats: bench.lengths.repeats,
            seconds: 0.0,
        },
        floods,
        capacity: measured.capacity,
        one_caller,
        open_loop,
        within_bound,
        elastic: None,
        several_gpus: Vec::new(),
        goals: Vec::new(),
    }
}

/// Returns the highest rates that keep the bound, alone and beside matrix products.
fn within_bound(rows: &[OpenRow]) -> Vec<WithinBound> {
    let compared = set_ups()
        .into_iter()
        .filter(|(_, flood)| matches!(flood, None | Some(FloodKind::Matrix)));
    compared
        .map(|(placement, flood)| {
            let own = rows.iter().filter(|row| row.row.is(placement, flood));
            let tried: Vec<_> = own
                .map(|row| {
                    let p99 = row
                        .row
                        .latencies
                        .p99_us
                        .map(|us| Duration::from_secs_f64(us / 1e6));
                    (row.offered_per_s, p99)
                })
                .collect();
            let lowest = tried.iter().map(|(rate, _)| *rate).reduce(f64::min);
            WithinBound {
                placement,
                p99_bound_ms: BOUND.as_secs_f64() * 1e3,
                per_s: highest_rate_within(BOUND, &tried),
                lowest_per_s: lowest.unwrap_or_default(),
            }
        })
        .collect()
}
