//! Device attributes on which nothing else in the simulator depends, such as limits of textures, as data.

use cuda_green_sys::CudaVersion;

/// Attribute and value, measured on an H200 (driver 580, CUDA 13.0). All others are 0 there, or follow from the
/// profile. Other devices use the same values, because they were not measured.
#[rustfmt::skip] // a list to be read as one
pub(super) const MEASURED: &[(u32, i32)] = &[
    (14, 512), (21, 131_072), (22, 131_072), (23, 65_536), (24, 16_384), (25, 16_384),
    (26, 16_384), (27, 32_768), (28, 32_768), (29, 2048), (30, 512), (32, 1), (42, 32_768),
    (43, 2048), (44, 1), (45, 32_768), (46, 32_768), (47, 8192), (48, 8192), (49, 32_768),
    (51, 32), (52, 32_768), (53, 32_768), (54, 2046), (55, 32_768), (56, 131_072), (57, 65_536),
    (58, 16_384), (59, 16_384), (60, 16_384), (61, 32_768), (62, 2048), (63, 32_768), (64, 32_768),
    (65, 2048), (66, 32_768), (67, 32_768), (68, 2046), (69, 268_435_456), (70, 131_072),
    (71, 65_000), (72, 2_097_120), (73, 32_768), (74, 32_768), (77, 32_768), (79, 1), (80, 1),
    (83, 1), (89, 1), (96, 1), (99, 1), (102, 1), (103, 1), (107, 1), (109, 134_217_728), (110, 1),
    (112, 1), (113, 1), (114, 1), (116, 1), (117, 1), (118, 100), (119, 9), (121, 1), (122, 1),
    (123, 1), (124, 1), (125, 1), (126, 4), (127, 1), (128, 1), (129, 1), (131, -1), (141, 1),
    (142, 1), (144, 1), (145, 1),
];

/// The largest attribute of each version that added one (from its header). On an H200 with driver 580, those of 13.0
/// are answered and later ones refused.
const LARGEST: &[(u16, u8, u32)] = &[
    (13, 4, 161),
    (13, 3, 156),
    (13, 1, 148),
    (13, 0, 147),
    (12, 8, 143),
    (12, 5, 135),
];

/// Returns the largest attribute that a driver of this version knows; for older ones than 12.4, that of 12.4.
pub(super) fn largest(version: CudaVersion) -> u32 {
    LARGEST
        .iter()
        .find(|(major, minor, _)| version >= CudaVersion::new(*major, *minor))
        .map_or(134, |(_, _, largest)| *largest)
}
