//! The conformance table: what each case comes to on each simulated driver, and against a real one.

use std::fmt::Write as _;

use crate::{
    Case, PROFILES, RECORDED, Record, compare, differences, notes_of, recorded_profile, repeats,
    simulated,
};
use cuda_green::sim::Sim;

/// Ask for the table in place of the tests.
pub const VARIABLE: &str = "CUDA_GREEN_CONFORMANCE_TABLE";

const OK: &str = "ok";

/// The table as Markdown, and whether all of it agrees.
pub fn table(
    cases: impl Iterator<Item = Case>,
    recorded: Result<Record, String>,
) -> (String, bool) {
    let mut text = String::from("| case |");
    for profile in PROFILES {
        let _ = write!(text, " {profile} |");
    }
    let _ = writeln!(text, " H200, CUDA 13.0, real |");
    let _ = writeln!(text, "|---{}", "|---".repeat(PROFILES.len() + 1) + "|");
    let (mut agrees, mut count) = (true, 0);
    for case in cases {
        count += 1;
        let _ = write!(text, "| {} |", case.name);
        for profile in PROFILES {
            let cell = on_profile(profile, case);
            agrees &= [OK, "-"].contains(&cell);
            let _ = write!(text, " {cell} |");
        }
        let (cell, fine) = on_hardware(case, recorded.as_ref().ok());
        agrees &= fine;
        let _ = writeln!(text, " {cell} |");
    }
    let _ = writeln!(
        text,
        "\n{count} cases. On a simulated driver `ok` is: two runs note the same and leave nothing behind; `-`: \
         its CUDA version or its number of devices lacks what the case is about. Against the real one, `n agree`: so many notes of \
         {} are those of the simulated {}.",
        RECORDED.0, RECORDED.1
    );
    if let Err(reason) = recorded {
        let _ = writeln!(text, "There are no notes of a real driver: {reason}.");
    }
    (text, agrees)
}

fn on_profile(profile: &str, case: Case) -> &'static str {
    match Sim::new(profile) {
        Ok(simulator) if !case.is_for(simulator.profile().cuda_version) => "-",
        Ok(simulator) if case.devices > simulator.profile().device_count => "-",
        Ok(_) if repeats(profile, case).is_ok() => OK,
        _ => "FAILS",
    }
}

/// A case's notes on the real driver against the simulated one's.
fn on_hardware(case: Case, recorded: Option<&Record>) -> (String, bool) {
    let Some(recorded) = recorded else {
        return ("not run".to_owned(), true);
    };
    let Some(notes) = notes_of(recorded, case) else {
        // The machine of the notes may have one device.
        return ("not run yet".to_owned(), case.devices > 1);
    };
    let simulated = match simulated(&recorded_profile(recorded), case) {
        Ok(notes) => notes,
        Err(_) => return ("FAILS".to_owned(), false),
    };
    if compare(case, notes, &simulated).is_err() {
        return ("DIFFERS".to_owned(), false);
    }
    let known = notes
        .keys()
        .filter(|note| notes.get(*note) != simulated.get(*note))
        .filter(|note| differences::reason(case.name, note).is_some())
        .count();
    let equal = notes.len() - known;
    if known == 0 {
        (format!("{equal} agree"), true)
    } else {
        (
            format!("{equal} agree, {known} differ for a known reason"),
            true,
        )
    }
}
