//! `cargo xtask mutants`: breaks the protocol of `cuda-green-queue` line by line, and expects a test to fail each time.
//!
//! A line is changed in place and put back, whatever happens; stop the command by no signal. All is built under loom,
//! since that has the tests with and without interleavings.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result, ensure};
use xshell::{Shell, cmd};

/// A line, what it becomes, and the test that finds it.
struct Mutant {
    name: &'static str,
    file: &'static str,
    from: &'static str,
    to: &'static str,
    test: &'static str,
}

const fn mutant(
    name: &'static str,
    file: &'static str,
    from: &'static str,
    to: &'static str,
    test: &'static str,
) -> Mutant {
    Mutant {
        name,
        file,
        from,
        to,
        test,
    }
}

#[rustfmt::skip]
const MUTANTS: &[Mutant] = &[
    // Slots.
    mutant("a task is committed without release", "protocol/slot.rs",
        "shared.store_release(at, word)", "shared.store(at, word)",
        "under_loom::two_producers_and_an_empty_ring"),
    mutant("a task is taken without acquire", "protocol/slot.rs",
        "shared.load_acquire(at)", "shared.load(at)",
        "under_loom::two_producers_and_an_empty_ring"),
    mutant("the lap is not in the sequence", "layout.rs",
        "((ticket >> depth_log2) as u32).wrapping_add(1)", "(ticket >> depth_log2).min(1).max(1) as u32",
        "single::a_slot_of_an_earlier_lap_is_empty"),
    mutant("a long payload is written past the slot", "protocol/slot.rs",
        "payload.len().min(ring.payload_bytes())", "payload.len()",
        "single::a_length_that_lies_is_harmless"),
    mutant("a payload is read past the slot", "protocol/slot.rs",
        "out.len().min(self.payload_bytes())", "out.len()",
        "single::a_length_that_lies_is_harmless"),
    // Reservations.
    mutant("credits are not checked", "protocol/reserve.rs",
        "as i64 >= count as i64 {", "as i64 >= i64::MIN {",
        "single::a_ring_is_a_bounded_queue"),
    mutant("credits are not given back", "protocol/reserve.rs",
        "        local.add(at, count);\n        false", "        false",
        "under_loom::two_producers_and_the_last_slot"),
    mutant("a refusal takes a ticket and gives it back", "protocol/reserve.rs",
        "        local.add(at, count);\n        false",
        "        local.add(self.state + HEAD, count);
        local.add(at, count);
        local.add(self.state + HEAD, count.wrapping_neg());
        false",
        "under_loom::two_producers_and_the_last_slot"),
    mutant("old and new credits are not added up", "protocol/reserve.rs",
        "if some && self.credits(local)", "if !some && self.credits(local)",
        "single::many_are_reserved_with_old_and_new_credits"),
    mutant("credits and tickets are relaxed", "protocol/tests/checked.rs",
        "fetch_add(value, AcqRel)\n    }\n\n    fn get32", "fetch_add(value, Relaxed)\n    }\n\n    fn get32",
        "under_loom::two_producers_and_the_last_slot"),
    // Refills.
    mutant("refills exclude each other no more", "protocol/reserve.rs",
        "local.exchange32(self.state + REFILLING, 1) != 0", "local.exchange32(self.state + REFILLING, 1) == 2",
        "under_loom::two_producers_and_a_full_ring_at_the_wrap"),
    mutant("a refill does not end", "protocol/reserve.rs",
        "        local.set32_release(self.state + REFILLING, 0);\n", "",
        "single::a_ring_is_a_bounded_queue"),
    mutant("the tail is read without acquire", "protocol/reserve.rs",
        "shared.load_acquire(self.tail)", "shared.load(self.tail)",
        "under_loom::two_producers_and_a_full_ring_at_the_wrap"),
    mutant("the tail that was seen is forgotten", "protocol/reserve.rs",
        "local.set(self.state + SEEN_TAIL, seen + granted)", "local.set(self.state + SEEN_TAIL, seen)",
        "single::a_ring_is_a_bounded_queue"),
    mutant("credits are granted and kept too", "protocol/reserve.rs",
        "            granted -= count;\n", "",
        "single::a_ring_is_a_bounded_queue"),
    mutant("a tail that went back is believed", "protocol/reserve.rs",
        "if granted > self.depth()", "if granted == 0",
        "single::a_tail_that_lies_grants_nothing"),
    mutant("nobody refills before the credits run out", "protocol/reserve.rs",
        "            self.refill(shared, local, 0);\n", "",
        "single::credits_come_before_they_run_out"),
    // The consumer.
    mutant("a slot is given back before it is copied", "protocol/consumer.rs",
        "        self.ring.read_payload(",
        "        shared.store_release(self.ring.tail, self.position + 1);\n        self.ring.read_payload(",
        "under_loom::two_producers_and_a_full_ring_at_the_wrap"),
    mutant("the tail is stored without release", "protocol/consumer.rs",
        "shared.store_release(self.ring.tail, self.position)", "shared.store(self.ring.tail, self.position)",
        "under_loom::two_producers_and_a_full_ring_at_the_wrap"),
    mutant("one slot too many is given back", "protocol/consumer.rs",
        "shared.store_release(self.ring.tail, self.position)", "shared.store_release(self.ring.tail, self.position + 1)",
        "single::a_ring_is_a_bounded_queue"),
    // Closing.
    mutant("a closed ring is only full", "protocol/reserve.rs",
        "closed: tail & CLOSED != 0", "closed: tail & CLOSED == 1",
        "under_loom::closed_at_once"),
    mutant("the bit of a closed ring counts as tickets", "protocol/reserve.rs",
        "(tail & !CLOSED)", "tail",
        "single::a_ring_is_a_bounded_queue"),
    mutant("a closed ring gives slots back", "protocol/consumer.rs",
        "if self.closed || self.told == self.position", "if self.told == self.position",
        "single::a_closed_ring_accepts_no_more_than_its_slots"),
    // Words that each tell their sequence.
    mutant("words of an earlier lap are believed", "protocol/inbox.rs",
        "((word >> 32) as u32 == sequence).then_some(word as u32)", "(sequence == sequence).then_some(word as u32)",
        "inbox::a_task_of_words"),
    mutant("the first word alone tells the sequence", "protocol/inbox.rs",
        "let future = data(shared.load(at + 8));", "let future = Some(shared.load(at + 8) as u32);",
        "under_loom::words_that_tell_their_sequence"),
    mutant("a payload that is not there in full is read", "protocol/inbox.rs",
        "if matching < whole.div_ceil(4)", "if matching > room",
        "under_loom::words_of_an_earlier_lap"),
    mutant("a long payload of words is written past the slot", "protocol/inbox.rs",
        "payload.len().min(self.inbox_payload_bytes())", "payload.len()",
        "inbox::a_task_of_words"),
    // Answers and futures.
    mutant("the generation of an answer is not checked", "protocol/answers.rs",
        "(first >> 32) as u32 != call.generation || answer", "answer",
        "single::an_answer_of_another_generation_is_none"),
    mutant("an answer without a status is one", "protocol/answers.rs",
        " || answer.status == 0", "",
        "single::an_answer_of_another_generation_is_none"),
    mutant("an answer is published without release", "protocol/answers.rs",
        "shared.store_release(at, first)", "shared.store(at, first)",
        "under_loom::calls_of_two_threads_for_one_entry"),
    mutant("an answer is read without acquire", "protocol/answers.rs",
        "shared.load_acquire(at)", "shared.load(at)",
        "under_loom::calls_of_two_threads_for_one_entry"),
    mutant("an answer is published before its output", "protocol/answers.rs",
        "    shared.write(at + ANSWER_HEADER, output);\n    let generation = u64::from(call.generation) << 32;",
        "    let generation = u64::from(call.generation) << 32;
    shared.store_release(at, generation | (output.len() as u64) << 8 | u64::from(status));
    shared.write(at + ANSWER_HEADER, output);",
        "under_loom::calls_of_two_threads_for_one_entry"),
    mutant("a length that lies is believed", "protocol/answers.rs",
        "out.len().min(table.output_bytes())", "out.len()",
        "single::an_output_of_any_length"),
    mutant("a long output is written into the next answer", "protocol/answers.rs",
        "if output.len() > table.output_bytes()", "if output.len() > 1 << 20",
        "single::answers_that_cannot_be_are_refused"),
    mutant("an entry is taken in two steps", "protocol/futures.rs",
        "let old = local.or32(self.word_at(future), TAKEN);",
        "let old = local.get32(self.word_at(future));\n        local.set32_release(self.word_at(future), old | TAKEN);",
        "under_loom::calls_of_two_threads_for_one_entry"),
    mutant("only entries nearby are looked at", "protocol/futures.rs",
        "(probes..self.count)", "(probes..probes)",
        "single::an_entry_is_found_wherever_one_is_free"),
    mutant("an entry is given back with its generation", "protocol/futures.rs",
        "local.add32(self.word_at(call.future), 3)", "local.add32(self.word_at(call.future), u32::MAX)",
        "single::a_call_gets_the_answer_of_its_own_generation"),
    mutant("an abandoned entry is given back at once", "protocol/futures.rs",
        "local.or32(self.word_at(call.future), ABANDONED)", "local.add32(self.word_at(call.future), 3)",
        "single::an_abandoned_entry_is_taken_again_after_its_answer_alone"),
    mutant("an abandoned entry is taken before its answer", "protocol/futures.rs",
        "|| !answers::has_arrived(shared, self, abandoned)", "|| abandoned.future == u32::MAX",
        "single::an_abandoned_entry_is_taken_again_after_its_answer_alone"),
    mutant("an answered entry is taken from its owner", "protocol/futures.rs",
        "word & ABANDONED == 0 ||", "word == 0 ||",
        "single::an_abandoned_entry_is_taken_again_after_its_answer_alone"),
    mutant("two take the same abandoned entry", "protocol/futures.rs",
        "local.replace32(at, word, next).then_some", "(local.add32(at, 1) != 0).then_some",
        "under_loom::an_abandoned_entry_that_many_want"),
];

pub fn run() -> Result<()> {
    let shell = Shell::new()?;
    shell.change_dir(crate::root());
    let _flags = shell.push_env("RUSTFLAGS", "--cfg loom");
    let _backtrace = shell.push_env("RUST_BACKTRACE", "0");
    // The same random cases each time.
    let _seed = shell.push_env("PROPTEST_RNG_SEED", "12345");
    let _shrinking = shell.push_env("PROPTEST_MAX_SHRINK_ITERS", "0");
    ensure!(test(&shell, "protocol::tests")?, "the tests fail as it is");
    let mut survivors = Vec::new();
    for mutant in MUTANTS {
        let found = with_mutant(&shell, mutant)?;
        let word = if found { "found by" } else { "NOT FOUND by" };
        println!("{}: {word} {}", mutant.name, mutant.test);
        if !found {
            survivors.push(mutant.name);
        }
    }
    ensure!(survivors.is_empty(), "not found: {}", survivors.join("; "));
    println!("all {} found", MUTANTS.len());
    Ok(())
}

/// Returns the file of a mutant and its text, which has the line once.
fn found(mutant: &Mutant) -> Result<(PathBuf, String)> {
    let path = crate::root().join("cuda-green-queue/src").join(mutant.file);
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    ensure!(
        text.matches(mutant.from).count() == 1,
        "{}: `{}` is not there once; adapt the list of mutants",
        mutant.file,
        mutant.from
    );
    Ok((path, text))
}

/// Breaks a line, and returns whether its test fails.
fn with_mutant(shell: &Shell, mutant: &Mutant) -> Result<bool> {
    let (path, text) = found(mutant)?;
    fs::write(&path, text.replace(mutant.from, mutant.to))?;
    let _restore = Restore { path, text };
    ensure!(
        cmd!(
            shell,
            "cargo test --quiet --package cuda-green-queue --target-dir target/loom --lib --no-run"
        )
        .quiet()
        .ignore_stderr()
        .run()
        .is_ok(),
        "{}: does not compile",
        mutant.name
    );
    let filter = format!("protocol::tests::{}", mutant.test);
    Ok(!test(shell, &filter)?)
}

/// Runs some tests, and returns whether all passed.
fn test(shell: &Shell, filter: &str) -> Result<bool> {
    let output = cmd!(
        shell,
        "cargo test --quiet --package cuda-green-queue --target-dir target/loom --lib {filter}"
    )
    .quiet()
    .ignore_status()
    .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(
        !text.contains("running 0 tests"),
        "no test is called {filter}"
    );
    Ok(output.status.success())
}

/// Puts a file back as it was.
struct Restore {
    path: PathBuf,
    text: String,
}

impl Drop for Restore {
    fn drop(&mut self) {
        if let Err(error) = fs::write(&self.path, &self.text) {
            eprintln!("{} is left broken: {error}", self.path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mutant_has_its_line() {
        for mutant in MUTANTS {
            found(mutant).unwrap();
        }
    }
}
