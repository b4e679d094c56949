//! Images of GPU code: recognising their kind, and checking that they are complete.

use std::{borrow::Cow, fmt};

/// The kind of an image, recognised by its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ImageKind {
    /// Text, which the driver compiles for its GPU.
    Ptx,
    /// Machine code for one compute capability, an ELF file.
    Cubin,
    /// A container of PTX and cubins, from which the driver takes the one that suits its GPU.
    FatBinary,
}

impl fmt::Display for ImageKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ptx => "PTX",
            Self::Cubin => "cubin",
            Self::FatBinary => "fat binary",
        })
    }
}

/// A checked image, in the form that the driver takes: a pointer without a length.
pub(crate) struct Image<'a> {
    pub(crate) kind: ImageKind,
    bytes: Cow<'a, [u8]>,
}

/// The defect of an image that must not be passed to the driver.
#[derive(Debug)]
pub(crate) enum BrokenImage {
    /// A binary whose headers describe more bytes than there are.
    Truncated { kind: ImageKind, len: usize },
    /// Text with a NUL inside.
    Nul { at: usize },
}

impl<'a> Image<'a> {
    /// Recognises an image's kind and checks it. The driver takes the length of a binary from its headers, so they must
    /// not describe more bytes than there are.
    pub(crate) fn new(bytes: &'a [u8]) -> Result<Self, BrokenImage> {
        let kind = match bytes {
            [0x7f, b'E', b'L', b'F', ..] => ImageKind::Cubin,
            [0x50, 0xed, 0x55, 0xba, ..] => ImageKind::FatBinary,
            _ => return Self::ptx(bytes),
        };
        let needed = match kind {
            ImageKind::Cubin => elf_length(bytes),
            _ => fat_length(bytes),
        };
        if needed.is_none_or(|needed| needed > bytes.len() as u64) {
            let len = bytes.len();
            return Err(BrokenImage::Truncated { kind, len });
        }
        Ok(Self {
            kind,
            bytes: bytes.into(),
        })
    }

    /// Makes an image of text, adding the final NUL of a C string unless it is there, as in NVRTC's output.
    fn ptx(bytes: &'a [u8]) -> Result<Self, BrokenImage> {
        let end = bytes.iter().position(|byte| *byte == 0);
        let rest = end.map_or(&[][..], |end| &bytes[end..]);
        if rest.iter().any(|byte| *byte != 0) {
            let at = end.unwrap_or_default();
            return Err(BrokenImage::Nul { at });
        }
        let bytes = if end.is_some() {
            bytes.into()
        } else {
            [bytes, &[0]].concat().into()
        };
        let kind = ImageKind::Ptx;
        Ok(Self { kind, bytes })
    }

    pub(crate) fn as_ptr(&self) -> *const u8 {
        self.bytes.as_ptr()
    }
}

/// Reads a little-endian number of `N` bytes, if the bytes are there.
fn number<const N: usize>(bytes: &[u8], at: u64) -> Option<u64> {
    let at = usize::try_from(at).ok()?;
    let found = bytes.get(at..at.checked_add(N)?)?;
    let mut whole = [0; 8];
    whole.get_mut(..N)?.copy_from_slice(found);
    Some(u64::from_le_bytes(whole))
}

/// Returns the length that a fat binary's header describes: of itself and what follows.
fn fat_length(bytes: &[u8]) -> Option<u64> {
    number::<2>(bytes, 6)?.checked_add(number::<8>(bytes, 8)?)
}

/// Returns the end of the last part that the headers of a 64-bit ELF file describe.
fn elf_length(bytes: &[u8]) -> Option<u64> {
    /// The type of a section without bytes in the file.
    const NOBITS: u64 = 8;
    let (segments, sections) = (number::<8>(bytes, 0x20)?, number::<8>(bytes, 0x28)?);
    let [segment, segment_count, section, section_count] =
        [0x36, 0x38, 0x3a, 0x3c].map(|at| number::<2>(bytes, at));
    let mut end = segments.checked_add(segment? * segment_count?)?;
    end = end.max(sections.checked_add(section? * section_count?)?);
    for index in 0..section_count? {
        let at = sections.checked_add(index * section?)?;
        if number::<4>(bytes, at.checked_add(4)?)? != NOBITS {
            let start = number::<8>(bytes, at.checked_add(24)?)?;
            end = end.max(start.checked_add(number::<8>(bytes, at.checked_add(32)?)?)?);
        }
    }
    Some(end)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Makes an ELF file with one section of this length.
    fn elf(len: u64) -> Vec<u8> {
        let mut bytes = vec![0; 64 + len as usize];
        bytes[..4].copy_from_slice(b"\x7fELF");
        bytes[0x28..0x30].copy_from_slice(&(64 + len).to_le_bytes());
        bytes[0x3a] = 64;
        bytes[0x3c] = 1;
        let mut section = [0; 64];
        section[24..32].copy_from_slice(&64_u64.to_le_bytes());
        section[32..40].copy_from_slice(&len.to_le_bytes());
        bytes.extend(section);
        bytes
    }

    fn fat(len: u64) -> Vec<u8> {
        let mut bytes = vec![0x50, 0xed, 0x55, 0xba, 1, 0, 16, 0];
        bytes.extend(len.to_le_bytes());
        bytes.resize(16 + len as usize, 0);
        bytes
    }

    #[test]
    fn text_is_ended_once() {
        for text in [&b".version 8.0"[..], b".version 8.0\0", b".version 8.0\0\0"] {
            let image = Image::new(text).unwrap();
            assert_eq!(image.kind, ImageKind::Ptx);
            assert_eq!(image.bytes[12], 0);
        }
        assert!(Image::new(b".version\08.0").is_err());
        assert_eq!(Image::new(b"").unwrap().bytes[..], [0]);
    }

    proptest! {
        #[test]
        fn a_binary_that_is_cut_off_is_refused(len in 0_u64..200, cut in any::<prop::sample::Index>()) {
            for whole in [elf(len), fat(len)] {
                prop_assert!(Image::new(&whole).unwrap().kind != ImageKind::Ptx);
                let short = &whole[..4 + cut.index(whole.len() - 4)];
                prop_assert!(Image::new(short).is_err());
            }
        }

        #[test]
        fn no_bytes_make_it_panic(
            magic in prop::sample::select(vec![&b"\x7fELF"[..], &[0x50, 0xed, 0x55, 0xba], b""]),
            rest in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let _ = Image::new(&[magic, &rest].concat());
        }
    }
}
