//! The packed form of a batch: ids and cumulative lengths.

/// The token ids of several texts, one after another without padding, and where each text starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackedBatch {
    ids: Vec<u32>,
    /// The start of each text in `ids`, and the end of the last.
    starts: Vec<u32>,
}

impl Default for PackedBatch {
    fn default() -> Self {
        Self::new()
    }
}

impl PackedBatch {
    /// Makes an empty batch.
    pub fn new() -> Self {
        Self {
            ids: Vec::new(),
            starts: vec![0],
        }
    }

    /// Adds a text's tokens, special ones included, at the end.
    pub fn push(&mut self, tokens: &[u32]) {
        self.ids.extend_from_slice(tokens);
        // Beyond what a start can hold, texts have no length, and no encoder takes them.
        let end = u32::try_from(self.ids.len()).unwrap_or(u32::MAX);
        self.starts.push(end);
    }

    /// Removes all texts and keeps the memory.
    pub fn clear(&mut self) {
        self.ids.clear();
        self.starts.truncate(1);
    }

    /// Returns the number of texts.
    pub fn texts(&self) -> usize {
        self.starts.len() - 1
    }

    /// Returns the number of tokens of all texts.
    pub fn tokens(&self) -> usize {
        self.ids.len()
    }

    /// Returns whether there is no text.
    pub fn is_empty(&self) -> bool {
        self.texts() == 0
    }

    /// Returns all tokens, one text after another.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Returns the start of each text in [`ids`](Self::ids), and the end of the last: one number more than texts.
    pub fn starts(&self) -> &[u32] {
        &self.starts
    }

    /// Returns the tokens of a text.
    pub fn text(&self, index: usize) -> Option<&[u32]> {
        let (start, end) = (self.starts.get(index)?, self.starts.get(index + 1)?);
        self.ids.get(*start as usize..*end as usize)
    }

    /// Returns the number of tokens of the longest text.
    pub fn longest(&self) -> usize {
        let lengths = self.starts.windows(2).map(|ends| ends[1] - ends[0]);
        lengths.max().unwrap_or(0) as usize
    }
}

impl<T: AsRef<[u32]>> FromIterator<T> for PackedBatch {
    fn from_iter<I: IntoIterator<Item = T>>(texts: I) -> Self {
        let mut batch = Self::new();
        for tokens in texts {
            batch.push(tokens.as_ref());
        }
        batch
    }
}
