//! The arguments of a launch, in order, and the memory that they point to.

use cuda_green::sim::Launch;
use half::{bf16, f16, slice::HalfFloatSliceExt, vec::HalfFloatVecExt};

use crate::kernels::Element;

/// Reads a launch's arguments one after another. All methods return `None` where the kernel has no such argument, and
/// after a fault in memory.
pub(crate) struct Arguments<'a> {
    launch: &'a Launch<'a>,
    next: usize,
}

impl<'a> Arguments<'a> {
    pub(crate) fn of(launch: &'a Launch<'a>) -> Self {
        Self { launch, next: 0 }
    }

    fn next<T>(&mut self, read: impl FnOnce(&Launch<'_>, usize) -> Option<T>) -> Option<T> {
        let index = self.next;
        self.next += 1;
        read(self.launch, index)
    }

    pub(crate) fn address(&mut self) -> Option<u64> {
        self.next(|launch, index| launch.arg_u64(index))
    }

    pub(crate) fn number(&mut self) -> Option<u32> {
        self.next(|launch, index| launch.arg_u32(index))
    }

    pub(crate) fn float(&mut self) -> Option<f32> {
        Some(f32::from_bits(self.number()?))
    }

    pub(crate) fn addresses<const N: usize>(&mut self) -> Option<[u64; N]> {
        let mut values = [0; N];
        for value in &mut values {
            *value = self.address()?;
        }
        Some(values)
    }

    pub(crate) fn numbers<const N: usize>(&mut self) -> Option<[u32; N]> {
        let mut values = [0; N];
        for value in &mut values {
            *value = self.number()?;
        }
        Some(values)
    }

    pub(crate) fn floats<const N: usize>(&mut self) -> Option<[f32; N]> {
        let mut values = [0.0; N];
        for value in &mut values {
            *value = self.float()?;
        }
        Some(values)
    }

    fn bytes(&self, address: u64, len: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; len];
        if len > 0 {
            self.launch.read(address, &mut bytes).ok()?;
        }
        Some(bytes)
    }

    /// Reads words of 32 bits.
    pub(crate) fn words(&self, address: u64, count: usize) -> Option<Vec<u32>> {
        let bytes = self.bytes(address, count * 4)?;
        let words = bytes.chunks_exact(4);
        Some(
            words
                .map(|word| u32::from_ne_bytes(word.try_into().unwrap_or_default()))
                .collect(),
        )
    }

    pub(crate) fn write_words(&self, address: u64, words: &[u32]) -> Option<()> {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        self.write_bytes(address, &bytes)
    }

    fn write_bytes(&self, address: u64, bytes: &[u8]) -> Option<()> {
        if bytes.is_empty() {
            return Some(());
        }
        self.launch.write(address, bytes).ok()
    }

    /// Reads elements as floats.
    pub(crate) fn read(&self, element: Element, address: u64, count: usize) -> Option<Vec<f32>> {
        if element == Element::F32 {
            let words = self.words(address, count)?;
            return Some(words.into_iter().map(f32::from_bits).collect());
        }
        let bytes = self.bytes(address, count * 2)?;
        let halves = bytes.chunks_exact(2);
        let halves = halves.map(|half| u16::from_ne_bytes(half.try_into().unwrap_or_default()));
        Some(match element {
            Element::F16 => halves.map(f16::from_bits).collect::<Vec<_>>().to_f32_vec(),
            _ => halves.map(|half| bf16::from_bits(half).to_f32()).collect(),
        })
    }

    /// Writes floats as elements, rounded to the nearest.
    pub(crate) fn write(&self, element: Element, address: u64, values: &[f32]) -> Option<()> {
        let bytes: Vec<u8> = match element {
            Element::F32 => values
                .iter()
                .flat_map(|value| value.to_ne_bytes())
                .collect(),
            Element::F16 => {
                let values = Vec::<f16>::from_f32_slice(values);
                values
                    .iter()
                    .flat_map(|value| value.to_ne_bytes())
                    .collect()
            }
            Element::Bf16 => values
                .iter()
                .flat_map(|value| bf16::from_f32(*value).to_ne_bytes())
                .collect(),
        };
        self.write_bytes(address, &bytes)
    }
}

impl Element {
    /// Returns the bytes of an element.
    pub(super) fn bytes(self) -> u64 {
        match self {
            Self::F16 | Self::Bf16 => 2,
            Self::F32 => 4,
        }
    }

    /// Returns the nearest value that an element can hold.
    pub(super) fn rounded(self, value: f32) -> f32 {
        match self {
            Self::F16 => f16::from_f32(value).to_f32(),
            Self::Bf16 => bf16::from_f32(value).to_f32(),
            Self::F32 => value,
        }
    }
}
