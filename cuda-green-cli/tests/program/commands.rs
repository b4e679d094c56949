//! What the program prints, word for word: the README's own commands, and those of `tests/program/commands/`.
//! `TRYCMD=overwrite` writes them anew.

#[test]
fn the_program_prints_what_is_written() {
    trycmd::TestCases::new()
        .env("CUDA_GREEN_DRIVER", "system")
        .env("COLUMNS", "80")
        .case("README.md")
        .case("tests/program/commands/*.md");
}
