//! The contents of device memory, in pages that exist once something is written.

use std::collections::BTreeMap;

pub(super) const PAGE: u64 = 64 << 10;

enum Page {
    Filled(u8),
    Bytes(Box<[u8]>),
}

/// Contents by offset; bytes that were never written are zero.
#[derive(Default)]
pub(super) struct Pages(BTreeMap<u64, Page>);

impl Pages {
    pub(super) fn read(&self, offset: u64, to: &mut [u8]) {
        for (page, inner, range) in pieces(offset, to.len()) {
            let piece = &mut to[range];
            match self.0.get(&page) {
                None => piece.fill(0),
                Some(Page::Filled(byte)) => piece.fill(*byte),
                Some(Page::Bytes(bytes)) => {
                    piece.copy_from_slice(&bytes[inner..inner + piece.len()]);
                }
            }
        }
    }

    pub(super) fn write(&mut self, offset: u64, from: &[u8]) {
        for (page, inner, range) in pieces(offset, from.len()) {
            let bytes = self.bytes(page);
            bytes[inner..inner + range.len()].copy_from_slice(&from[range]);
        }
    }

    /// Sets bytes to one value; whole pages of it cost nothing.
    pub(super) fn fill(&mut self, offset: u64, byte: u8, len: usize) {
        for (page, inner, range) in pieces(offset, len) {
            if range.len() as u64 == PAGE {
                self.0.insert(page, Page::Filled(byte));
            } else {
                self.bytes(page)[inner..inner + range.len()].fill(byte);
            }
        }
    }

    /// Returns a page's bytes, allocated at the first write.
    fn bytes(&mut self, page: u64) -> &mut [u8] {
        let entry = self.0.entry(page).or_insert(Page::Filled(0));
        if let Page::Filled(byte) = *entry {
            *entry = Page::Bytes(vec![byte; PAGE as usize].into_boxed_slice());
        }
        match entry {
            Page::Bytes(bytes) => bytes,
            Page::Filled(_) => &mut [],
        }
    }
}

/// Returns the pages of a range: page, offset in the page, and part of the range.
fn pieces(offset: u64, len: usize) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = offset + done as u64;
        let inner = (at % PAGE) as usize;
        let part = (len - done).min(PAGE as usize - inner);
        let piece = (at / PAGE, inner, done..done + part);
        done += part;
        (part > 0).then_some(piece)
    })
}
