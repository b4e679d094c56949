//! The archives of the published crates, each of which must compile from what is in it.

use std::{fs, path::Path, process};

use anyhow::Result;
use xshell::{Shell, cmd};

use super::PUBLISHED;

/// Packs the crates as a release would, and compiles them from their archives, each with the archives of the others that
/// it needs: the registry has none of them before the release.
///
/// Cargo's own dry run would build each with all that it needs in a folder of its own. What an archive can lack shows
/// without machine code, and with what other checks have compiled.
pub fn check(shell: &Shell) -> Result<()> {
    let target = crate::root().join("target");
    // Of its own each time: an archive of the same version would be taken for the same archive.
    let folder = target.join(format!("archives-{}", process::id()));
    let done = compile(shell, &folder, &target);
    shell.remove_path(&folder)?;
    done
}

fn compile(shell: &Shell, folder: &Path, target: &Path) -> Result<()> {
    // What the registry would refuse, and that the crates need only each other's releases.
    cmd!(
        shell,
        "cargo publish --workspace --dry-run --quiet --allow-dirty --no-verify --target-dir {folder}"
    )
    .run()?;
    let packages = super::packages();
    cmd!(
        shell,
        "cargo package {packages...} --quiet --allow-dirty --no-verify --target-dir {folder}"
    )
    .run()?;
    let unpacked = folder.join("unpacked");
    fs::create_dir_all(&unpacked)?;
    let names = PUBLISHED.map(|name| format!("{name}-{}", env!("CARGO_PKG_VERSION")));
    for name in &names {
        let archive = folder.join("package").join(format!("{name}.crate"));
        cmd!(
            shell,
            "tar --extract --gzip --file {archive} --directory {unpacked}"
        )
        .run()?;
    }
    fs::write(unpacked.join("Cargo.toml"), workspace(&names))?;
    // The same versions of what they need as here.
    fs::copy(
        crate::root().join("Cargo.lock"),
        unpacked.join("Cargo.lock"),
    )?;
    let _folder = shell.push_dir(&unpacked);
    cmd!(shell, "cargo check --workspace --target-dir {target}").run()?;
    Ok(())
}

/// Returns the manifest of a workspace of the unpacked crates, which takes each for the registry's.
fn workspace(names: &[String]) -> String {
    let mut text = format!("[workspace]\nresolver = \"3\"\nmembers = {names:?}\n\n");
    // As here, or cargo would compile what they need once more.
    text += "[profile.dev]\ndebug = \"line-tables-only\"\n\n[patch.crates-io]\n";
    for (package, folder) in PUBLISHED.iter().zip(names) {
        text += &format!("{package} = {{ path = \"{folder}\" }}\n");
    }
    text
}
