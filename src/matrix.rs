//! The table of entry points and fields by CUDA version.
/// Table.
pub fn table(_: &std::path::Path) -> Result<String, Box<dyn std::error::Error>> {
    Ok(String::new())
}
