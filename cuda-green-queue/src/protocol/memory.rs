//! The accesses to memory that the protocol is made of.

/// Memory that both sides of a queue access, by addresses or by offsets: loads and stores, no read-modify-writes.
///
/// Each access is of 8 aligned bytes. One outside of the memory does nothing and loads zero.
pub(crate) trait Shared {
    /// Loads a word, relaxed.
    fn load(&self, at: u64) -> u64;

    /// Loads a word with acquire semantics.
    fn load_acquire(&self, at: u64) -> u64;

    /// Stores a word, relaxed.
    fn store(&self, at: u64, value: u64);

    /// Stores a word with release semantics.
    fn store_release(&self, at: u64, value: u64);

    /// Loads a word that only one side accesses at a time: the protocol orders it, not this access.
    fn read_word(&self, at: u64) -> u64;

    /// Stores a word that only one side accesses at a time.
    fn write_word(&self, at: u64, value: u64);

    /// Copies bytes out by [`read_word`](Self::read_word).
    #[inline]
    fn read(&self, mut at: u64, out: &mut [u8]) {
        for chunk in out.chunks_mut(8) {
            let bytes = self.read_word(at).to_le_bytes();
            chunk.copy_from_slice(&bytes[..chunk.len()]);
            at += 8;
        }
    }

    /// Copies bytes in by [`write_word`](Self::write_word); the last word is filled up with zeros.
    #[inline]
    fn write(&self, mut at: u64, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_word(at, u64::from_le_bytes(word));
            at += 8;
        }
    }
}

/// Memory that producers alone access. Each operation acquires and releases; on a GPU it is of gpu scope.
///
/// Each returns the old value. A word is always accessed with the same width.
pub(crate) trait Local {
    /// Loads a word of 8 bytes, relaxed.
    fn get(&self, at: u64) -> u64;

    /// Stores a word of 8 bytes, relaxed.
    fn set(&self, at: u64, value: u64);

    /// Adds to a word of 8 bytes, wrapping.
    fn add(&self, at: u64, value: u64) -> u64;

    /// Loads a word of 4 bytes, relaxed.
    fn get32(&self, at: u64) -> u32;

    /// Stores a word of 4 bytes with release semantics.
    fn set32_release(&self, at: u64, value: u32);

    /// Exchanges a word of 4 bytes.
    fn exchange32(&self, at: u64, value: u32) -> u32;

    /// Adds to a word of 4 bytes, wrapping.
    fn add32(&self, at: u64, value: u32) -> u32;

    /// Sets bits of a word of 4 bytes.
    fn or32(&self, at: u64, bits: u32) -> u32;

    /// Replaces a word of 4 bytes that is as expected, and returns whether it was.
    fn replace32(&self, at: u64, expected: u32, value: u32) -> bool;
}
