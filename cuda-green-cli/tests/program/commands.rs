//! The program's output, word for word: that of the README's commands, and of those in `tests/program/commands/`
//! and `tests/program/embed_commands/`.
//! `TRYCMD=overwrite` rewrites it.

#[test]
fn the_program_prints_what_is_written() {
    let cases = trycmd::TestCases::new();
    #[cfg(feature = "embed")]
    cases.case("tests/program/embed_commands/*.md");
    cases
        .env("CUDA_GREEN_DRIVER", "system")
        .env("COLUMNS", "80")
        .case("README.md")
        .case("tests/program/commands/*.md");
}
