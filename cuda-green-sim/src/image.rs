//! Binary images: the kernels of a cubin, by its symbols, and the images in a fat binary. No machine code runs.
//!
//! A cubin is an ELF file of 64 bits for the machine `EM_CUDA`. A kernel is a function among its symbols with
//! NVIDIA's mark of an entry; its parameters are in the section `.nv.info.<kernel>`. A fat binary is a header
//! followed by images with a header each. Neither format is documented; this reads what `ptxas` and `fatbinary` of
//! CUDA 13.0 write.

use std::collections::BTreeMap;

use crate::ptx::Ptx;

pub(crate) const ELF: [u8; 4] = *b"\x7fELF";
pub(crate) const FATBIN: [u8; 4] = 0xba55_ed50_u32.to_le_bytes();

const ELF_HEADER: usize = 64;
const SECTION_HEADER: usize = 64;
const SYMBOL: usize = 24;
const EM_CUDA: u16 = 190;
const SHT_SYMTAB: u32 = 2;
const SHT_STRTAB: u32 = 3;
const SHT_NOBITS: u32 = 8;
const STT_FUNC: u8 = 2;
/// In a symbol's `st_other`: the function can be launched.
const STO_CUDA_ENTRY: u8 = 0x10;
/// In `.nv.info`: one parameter, its offset and size.
const KPARAM_INFO: u8 = 0x17;
/// The format of an entry in `.nv.info` whose payload follows, preceded by its length.
const SIZED: u8 = 4;
/// Larger than any image; bounds the bytes that are read for a false header.
const LARGEST: u64 = 1 << 30;

type Parsed<T> = Result<T, String>;

/// Reads little-endian numbers from bytes, never beyond their end.
fn number<const N: usize>(bytes: &[u8], at: usize) -> Parsed<u64> {
    let end = at.checked_add(N).ok_or("an offset is out of bounds")?;
    let found = bytes.get(at..end).ok_or("the image ends early")?;
    let mut whole = [0; 8];
    whole[..N].copy_from_slice(found);
    Ok(u64::from_le_bytes(whole))
}

fn u16_at(bytes: &[u8], at: usize) -> Parsed<usize> {
    number::<2>(bytes, at).map(|n| n as usize)
}

fn u32_at(bytes: &[u8], at: usize) -> Parsed<u32> {
    number::<4>(bytes, at).map(|n| n as u32)
}

fn place(bytes: &[u8], at: usize) -> Parsed<usize> {
    number::<8>(bytes, at).map(|n| usize::try_from(n).unwrap_or(usize::MAX))
}

fn part(bytes: &[u8], at: usize, len: usize) -> Parsed<&[u8]> {
    let end = at.checked_add(len).ok_or("a part is out of bounds")?;
    Ok(bytes.get(at..end).ok_or("the image ends early")?)
}

fn text(bytes: &[u8], at: usize) -> Parsed<&str> {
    let rest = bytes.get(at..).ok_or("a name is out of bounds")?;
    let end = rest.iter().position(|byte| *byte == 0);
    let name = &rest[..end.ok_or("a name does not end")?];
    std::str::from_utf8(name).map_err(|_| "a name is not text".to_owned())
}

/// Copies a binary image of which only the start is known: `read` fills bytes from an offset on.
pub(crate) fn copy(head: &[u8], read: impl Fn(usize, &mut [u8])) -> Parsed<Vec<u8>> {
    let bytes = |len: u64| {
        if len > LARGEST {
            return Err(format!("an image of {len} bytes"));
        }
        let mut bytes = vec![0; len as usize];
        read(0, &mut bytes);
        Ok(bytes)
    };
    if head == FATBIN {
        let header = bytes(16)?;
        let (own, rest) = (number::<2>(&header, 6)?, number::<8>(&header, 8)?);
        return bytes(own.saturating_add(rest));
    }
    let header = bytes(ELF_HEADER as u64)?;
    let table = number::<8>(&header, 0x28)?;
    let count = number::<2>(&header, 0x3c)?;
    let end = table.saturating_add(count * SECTION_HEADER as u64);
    let sections = bytes(end)?;
    let mut whole = end;
    for section in Sections::of(&sections)?.headers() {
        let section = section?;
        if section.kind != SHT_NOBITS {
            let end = section.offset.saturating_add(section.len);
            whole = whole.max(end as u64);
        }
    }
    bytes(whole)
}

/// Returns the kernels of an image, in a fat binary those of the first usable one. `ptx` reads a text.
pub(crate) fn read(bytes: &[u8], ptx: impl Fn(&str) -> Parsed<Ptx>) -> Parsed<Ptx> {
    if !bytes.starts_with(&FATBIN) {
        return cubin(bytes);
    }
    let mut at = u16_at(bytes, 6)?;
    let mut why = "the fat binary is empty".to_owned();
    while at < bytes.len() {
        let (kind, header) = (u16_at(bytes, at)?, u32_at(bytes, at + 4)? as usize);
        let len = place(bytes, at + 8)?;
        let start = at.checked_add(header).ok_or("a part is out of bounds")?;
        let image = part(bytes, start, len)?;
        let found = match kind {
            // If it is compressed, this is its length before.
            _ if header >= 64 && number::<8>(bytes, at + 56)? > 0 => {
                Err("a compressed image, which is not simulated".to_owned())
            }
            1 => {
                let end = image.iter().position(|byte| *byte == 0);
                let text = std::str::from_utf8(&image[..end.unwrap_or(image.len())]);
                text.map_err(|_| "PTX that is not text".to_owned())
                    .and_then(&ptx)
            }
            2 => cubin(image),
            _ => Err(format!("an image of kind {kind}")),
        };
        match found {
            Ok(found) => return Ok(found),
            Err(error) => why = error,
        }
        at = start
            .checked_add(len.max(1))
            .ok_or("a part is out of bounds")?;
    }
    Err(why)
}

/// Returns the sections of an ELF file.
struct Sections<'a> {
    bytes: &'a [u8],
    table: usize,
    count: usize,
}

struct Section {
    name: usize,
    kind: u32,
    offset: usize,
    len: usize,
    /// The section that this one refers to: for symbols, that of their names.
    link: usize,
}

impl<'a> Sections<'a> {
    fn of(bytes: &'a [u8]) -> Parsed<Self> {
        if !bytes.starts_with(&ELF) || number::<2>(bytes, 0x12)? != u64::from(EM_CUDA) {
            return Err("an ELF file that is not a cubin".to_owned());
        }
        Ok(Self {
            bytes,
            table: place(bytes, 0x28)?,
            count: u16_at(bytes, 0x3c)?,
        })
    }

    fn get(&self, index: usize) -> Parsed<Section> {
        let at = index * SECTION_HEADER;
        let header = part(self.bytes, self.table, self.count * SECTION_HEADER)?;
        Ok(Section {
            name: u32_at(header, at)? as usize,
            kind: u32_at(header, at + 4)?,
            offset: place(header, at + 24)?,
            len: place(header, at + 32)?,
            link: u32_at(header, at + 40)? as usize,
        })
    }

    fn headers(&self) -> impl Iterator<Item = Parsed<Section>> + '_ {
        (0..self.count).map(|index| self.get(index))
    }

    fn contents(&self, section: &Section) -> Parsed<&'a [u8]> {
        part(self.bytes, section.offset, section.len)
    }
}

fn cubin(bytes: &[u8]) -> Parsed<Ptx> {
    let sections = Sections::of(bytes)?;
    let names = sections.contents(&sections.get(u16_at(bytes, 0x3e)?)?)?;
    let mut kernels = BTreeMap::new();
    let mut parameters = BTreeMap::new();
    for section in sections.headers() {
        let section = section?;
        if let Some(kernel) = text(names, section.name)?.strip_prefix(".nv.info.") {
            parameters.insert(kernel, sizes(sections.contents(&section)?)?);
        }
        if section.kind != SHT_SYMTAB {
            continue;
        }
        let texts = sections.contents(&sections.get(section.link)?)?;
        for symbol in sections.contents(&section)?.chunks_exact(SYMBOL) {
            if symbol[4] & 0xf == STT_FUNC && symbol[5] & STO_CUDA_ENTRY != 0 {
                let name = text(texts, u32_at(symbol, 0)? as usize)?;
                kernels.insert(name.to_owned(), Vec::new());
            }
        }
    }
    for (name, sizes) in &mut kernels {
        *sizes = parameters.remove(name.as_str()).unwrap_or_default();
    }
    Ok(Ptx {
        version: (0, 0),
        target: architecture(bytes)?,
        kernels,
    })
}

/// Returns the compute capability that a cubin is for. Its place in the flags changed with the ABI.
fn architecture(bytes: &[u8]) -> Parsed<u32> {
    let flags = u32_at(bytes, 0x30)?;
    let new = bytes.get(8).is_some_and(|abi| *abi >= 8);
    Ok(if new { flags >> 8 } else { flags } & 0xff)
}

/// Returns the sizes of a kernel's parameters, in their order.
fn sizes(info: &[u8]) -> Parsed<Vec<usize>> {
    let mut sizes = BTreeMap::new();
    let mut at = 0;
    while at < info.len() {
        let (format, attribute, len) =
            (info[at], number::<1>(info, at + 1)?, u16_at(info, at + 2)?);
        at += 4;
        if format != SIZED {
            continue;
        }
        if attribute == u64::from(KPARAM_INFO) {
            let ordinal = u16_at(info, at + 4)?;
            sizes.insert(ordinal, (u32_at(info, at + 8)? >> 18) as usize);
        }
        at += len;
    }
    Ok(sizes.into_values().collect())
}

/// Makes a cubin with these kernels, as far as [`read`] reads one, for the result of a link.
pub(crate) fn write(linked: &Ptx) -> Vec<u8> {
    let mut contents = vec![0; ELF_HEADER];
    let mut headers = vec![0; SECTION_HEADER]; // the first is empty
    let mut names = vec![0];
    let mut symbols = vec![0; SYMBOL];
    let mut add = |name: &str, kind: u32, link: u32, bytes: &[u8]| {
        let mut header = [0; SECTION_HEADER];
        header[..4].copy_from_slice(&(names.len() as u32).to_le_bytes());
        header[4..8].copy_from_slice(&kind.to_le_bytes());
        header[24..32].copy_from_slice(&(contents.len() as u64).to_le_bytes());
        header[32..40].copy_from_slice(&(bytes.len() as u64).to_le_bytes());
        header[40..44].copy_from_slice(&link.to_le_bytes());
        headers.extend(header);
        names.extend(name.bytes().chain([0]));
        contents.extend(bytes);
    };
    let mut texts = vec![0];
    for (name, sizes) in &linked.kernels {
        let mut info = Vec::new();
        for (ordinal, size) in (0_u16..).zip(sizes) {
            info.extend([SIZED, KPARAM_INFO, 12, 0, 0, 0, 0, 0]);
            info.extend(ordinal.to_le_bytes());
            info.extend([0, 0]);
            info.extend(((*size as u32) << 18).to_le_bytes());
        }
        add(&format!(".nv.info.{name}"), 0x7000_0000, 0, &info);
        let mut symbol = [0; SYMBOL];
        symbol[..4].copy_from_slice(&(texts.len() as u32).to_le_bytes());
        symbol[4..6].copy_from_slice(&[0x10 | STT_FUNC, STO_CUDA_ENTRY]);
        symbols.extend(symbol);
        texts.extend(name.bytes().chain([0]));
    }
    let text_section = linked.kernels.len() as u32 + 1;
    add(".strtab", SHT_STRTAB, 0, &texts);
    add(".symtab", SHT_SYMTAB, text_section, &symbols);
    // The section's own name is only known now, after the length of the others.
    let mut all = std::mem::take(&mut names);
    let own = all.len() as u32;
    all.extend(b".shstrtab\0");
    let mut header = [0; SECTION_HEADER];
    header[..4].copy_from_slice(&own.to_le_bytes());
    header[4..8].copy_from_slice(&SHT_STRTAB.to_le_bytes());
    header[24..32].copy_from_slice(&(contents.len() as u64).to_le_bytes());
    header[32..40].copy_from_slice(&(all.len() as u64).to_le_bytes());
    headers.extend(header);
    contents.extend(&all);
    let count = (headers.len() / SECTION_HEADER) as u16;
    contents[..4].copy_from_slice(&ELF);
    contents[4..9].copy_from_slice(&[2, 1, 1, 0x33, 7]);
    contents[0x12..0x14].copy_from_slice(&EM_CUDA.to_le_bytes());
    let table = contents.len() as u64;
    contents[0x28..0x30].copy_from_slice(&table.to_le_bytes());
    contents[0x30..0x34].copy_from_slice(&linked.target.to_le_bytes());
    contents[0x3a..0x3c].copy_from_slice(&(SECTION_HEADER as u16).to_le_bytes());
    contents[0x3c..0x3e].copy_from_slice(&count.to_le_bytes());
    contents[0x3e..0x40].copy_from_slice(&(count - 1).to_le_bytes());
    contents.extend(headers);
    contents
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ptx;
    use proptest::prelude::*;

    fn fat(images: &[(u16, &[u8])]) -> Vec<u8> {
        let mut body = Vec::new();
        for (kind, image) in images {
            let mut header = [0; 64];
            header[..2].copy_from_slice(&kind.to_le_bytes());
            header[4..8].copy_from_slice(&64_u32.to_le_bytes());
            header[8..16].copy_from_slice(&(image.len() as u64).to_le_bytes());
            body.extend(header);
            body.extend(*image);
        }
        let mut whole = FATBIN.to_vec();
        whole.extend([1, 0, 16, 0]);
        whole.extend((body.len() as u64).to_le_bytes());
        whole.extend(body);
        whole
    }

    fn copied(image: &[u8]) -> Parsed<Vec<u8>> {
        copy(&image[..4], |at, to| {
            for (place, byte) in to.iter_mut().enumerate() {
                *byte = image.get(at + place).copied().unwrap_or(0);
            }
        })
    }

    proptest! {
        #[test]
        fn what_is_linked_is_read_again(
            kernels in prop::collection::btree_map("[a-z_][a-z0-9_]{0,20}", prop::collection::vec(1_usize..4096, 0..9), 0..6),
            target in 30_u32..130,
        ) {
            let linked = Ptx { version: (0, 0), target, kernels };
            let image = write(&linked);
            prop_assert_eq!(&copied(&image).unwrap(), &image);
            prop_assert_eq!(&read(&image, ptx::parse).unwrap(), &linked);
            let fat = fat(&[(7, b"what is this"), (2, &image)]);
            prop_assert_eq!(&copied(&fat).unwrap(), &fat);
            prop_assert_eq!(&read(&fat, ptx::parse).unwrap(), &linked);
        }

        #[test]
        fn no_image_makes_it_panic(
            mut image in Just(write(&Ptx { version: (0, 0), target: 90, kernels: [("k".to_owned(), vec![8, 4])].into() })),
            changes in prop::collection::vec((0_usize..600, any::<u8>()), 0..12),
            len in 4_usize..700,
            wrap in any::<bool>(),
        ) {
            if wrap {
                image = fat(&[(2, &image)]);
            }
            for (at, byte) in changes {
                if let Some(place) = image.get_mut(at.max(4)) {
                    *place = byte;
                }
            }
            image.truncate(len);
            let _ = read(&image, ptx::parse);
            let _ = copied(&image);
        }
    }

    #[test]
    fn a_text_in_a_fat_binary_is_read() {
        let text = b".version 8.0\n.target sm_60\n.entry k(.param .u64 a) { ret; }\0\0\0";
        let found = read(&fat(&[(1, text)]), ptx::parse).unwrap();
        assert_eq!(found.kernels["k"], [8]);
    }
}
